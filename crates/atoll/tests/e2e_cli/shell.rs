//! `atoll shell` and `atoll exec -it` on a terminal.

use std::process::Command;

use crate::proxy::Proxy;
use crate::pty::OnTerminal;
use crate::server::{Server, binary};

fn through(proxy: &Proxy, server: &Server, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(["--url", &format!("http://{}", proxy.address)]).args(arguments);
    command.env("ATOLL_API_KEY", server.api_key()).env_remove("ATOLL_DATA");
    command
}

/// Asks for the size until the guest knows it: a resize travels beside the keys.
fn expect_size(shell: &mut OnTerminal, rows: u16, cols: u16) {
    shell.send(&format!(
        "until [ \"$(stty size)\" = '{rows} {cols}' ]; do sleep 0.1; done; echo sized-$((2 * {cols}))\n"
    ));
    shell.expect(&format!("sized-{}", 2 * cols));
}

#[test]
fn a_shell_has_the_windows_size_takes_ctrl_c_and_outlives_its_connection() {
    let server = Server::start();
    let id = server.create();
    let proxy = Proxy::to(&server.url);
    let mut shell = OnTerminal::start(&through(&proxy, &server, &["shell", &id, "--", "bash", "--norc"]), 30, 100);
    expect_size(&mut shell, 30, 100);
    assert!(!shell.is_cooked(), "every key is the guest's");
    shell.resize(41, 133);
    expect_size(&mut shell, 41, 133);

    // Said by the one that shall be interrupted: the shell itself is not yet waiting when it says something.
    shell.send("sh -c 'echo waiting-$((1 + 1)); exec sleep 1000'\n");
    shell.expect("waiting-2");
    shell.send("\x03");
    shell.send("echo after-$((20 + 3))\n");
    shell.expect("after-23");

    // The lines go on while nobody is connected; none is lost and none comes twice.
    shell.send(
        "n=0; until [ -e /tmp/cut ] && [ $n -gt 7 ]; do n=$((n+1)); echo line-$n-; sleep 0.3; done; echo end-$((40 + 2))\n",
    );
    shell.expect("line-1-");
    proxy.cut();
    assert_eq!(server.run(&["exec", &id, "--", "touch", "/tmp/cut"]).code, Some(0));
    let rest = shell.expect("end-42");
    assert!(rest.contains("reconnecting"), "{rest:?}");
    for n in 2..=8 {
        assert_eq!(rest.matches(&format!("line-{n}-")).count(), 1, "line {n}: {rest:?}");
    }
    expect_size(&mut shell, 41, 133);

    shell.send("exit 9\n");
    assert_eq!(shell.wait(), Some(9));
    assert!(shell.is_cooked(), "the terminal is given back as it was");
}

#[test]
fn exec_it_gives_a_terminal_and_refuses_where_there_is_none() {
    let server = Server::start();
    let id = server.create();
    let none = server.run(&["exec", "-it", &id, "--", "true"]);
    assert_eq!(none.code, Some(2), "{none:?}");
    assert!(none.stderr.contains("exec -i"), "{none:?}");
    let command = server.atoll(&[
        "exec",
        "-it",
        &id,
        "-w",
        "/tmp",
        "--",
        "sh",
        "-c",
        "test -t 0 && test -t 1 && pwd; read x; exit $x",
    ]);
    let mut program = OnTerminal::start(&command, 24, 80);
    program.expect("/tmp");
    program.send("6\n");
    assert_eq!(program.wait(), Some(6));
    assert!(program.is_cooked());
}
