//! The acts of a life, and what was promised in them.
//!
//! How it works: an act asks for one thing after another, and [`Progress`] keeps what was asked and what was answered: an answer of success
//! must hold, whoever dies later; what was asked and not answered may have come to pass or not. Between two requests an act ends when
//! it is told that it is enough.
//!
//! Deliberately absent: judging ([`super::check`]).

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atoll_api::{CreateSandboxRequest, CreateSnapshotRequest, ModeRequest, SandboxStatus, UpdateSandboxRequest};
use atoll_client::{Client, ClientError};

use super::case::{Act, Victim};
use super::keyed::Wanted;
use super::world::{LIMIT, request, shell, until};
use super::{checker, kept, keyed};

/// How often a template is asked for while a loaded machine keeps the agent from answering.
const TRIES: u32 = 4;
/// An agent that says nothing for so long is cut off, or so slow that it comes to the same.
const UNANSWERED: Duration = Duration::from_secs(3);

/// What can be asked of the sandbox of a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    Create,
    Pause,
    Resume,
    Destroy,
    Template,
    Delete,
}

/// What was asked and answered until now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    /// What the key asks for, once it was sent.
    pub(crate) wanted: Option<Wanted>,
    /// The sandbox, once it was answered.
    pub(crate) id: Option<String>,
    /// A file was written and synced.
    pub(crate) has_file: bool,
    /// The last that was asked of the sandbox, and whether it was answered well.
    pub(crate) sandbox: Option<(Deed, bool)>,
    /// The same of the template.
    pub(crate) template: Option<(Deed, bool)>,
    /// A resume from the disk alone was asked for.
    pub(crate) gave_memory_up: bool,
    /// The resident's timeout, once it was answered.
    pub(crate) limit: Option<i64>,
    /// Why the act ended early.
    pub(crate) failure: Option<String>,
}

/// Shared by whoever leads and whoever watches.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    told: Mutex<Told>,
    /// Between two requests: no more of them.
    pub(crate) enough: AtomicBool,
}

impl Progress {
    pub(crate) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever leads an act.
pub(crate) struct Life<'a> {
    pub(crate) client: &'a Client,
    pub(crate) data: &'a Path,
    pub(crate) key: &'a str,
    pub(crate) cold: bool,
    pub(crate) resident: Option<&'a str>,
    pub(crate) progress: &'a Progress,
}

/// The template of a life.
pub(crate) fn template_of(key: &str) -> String {
    key.replace('/', "_")
}

fn text(error: ClientError) -> String {
    error.to_string()
}

impl Life<'_> {
    /// Leads it; what fails on the way is the checker's to judge.
    pub(crate) async fn lead(&self, act: Act) {
        if let Err(why) = self.act(act).await {
            self.progress.told().failure = Some(why);
        }
    }

    async fn act(&self, act: Act) -> Result<(), String> {
        match act {
            Act::Start => Ok(()),
            Act::Make => {
                let id = self.make().await?;
                self.work(&id).await?;
                self.end(&id).await
            }
            Act::OwnEnd => self.own_end().await,
            Act::Fail => self.fail().await,
            Act::Use => self.use_resident().await,
            Act::Limits => self.limits().await,
            Act::Pause => {
                let id = self.make().await?;
                self.work(&id).await?;
                self.pause(&id).await
            }
            Act::PauseLong => {
                let id = self.make().await?;
                self.work(&id).await?;
                self.lengthen(&id)?;
                self.pause(&id).await
            }
            Act::PauseMute => {
                let id = self.make().await?;
                self.work(&id).await?;
                self.cut_off(&id).await?;
                self.pause(&id).await
            }
            Act::Flatten => {
                let id = self.make().await?;
                self.work(&id).await?;
                self.pause(&id).await?;
                self.flat(&id).await
            }
            Act::Expire => self.expire().await,
            Act::Resume => self.resume(None).await,
            Act::ResumeFails => self.resume_fails().await,
            Act::ResumeDisk => self.resume(Some("disk")).await,
            Act::EndPaused => {
                let id = self.known()?;
                self.end(&id).await
            }
            Act::Template => self.template().await,
            Act::TemplateOfPaused => {
                let id = self.known()?;
                for _ in 0..TRIES {
                    if self.client.sandbox(&id).await.map_err(text)?.paused.is_none_or(|kept| kept.quiesced) {
                        break;
                    }
                    // Its agent was late, and of such a one there is no template.
                    self.resume(None).await?;
                    self.pause(&id).await?;
                }
                self.template_of(&id).await?;
                self.delete_template().await
            }
        }
    }

    fn go_on(&self) -> Result<(), String> {
        if self.progress.enough.load(Ordering::SeqCst) { Err("it was enough".into()) } else { Ok(()) }
    }

    fn asked(&self, deed: Deed) -> Result<(), String> {
        self.go_on()?;
        self.progress.told().sandbox = Some((deed, false));
        Ok(())
    }

    fn answered(&self, deed: Deed) {
        self.progress.told().sandbox = Some((deed, true));
    }

    /// The sandbox that an earlier act made.
    fn known(&self) -> Result<String, String> {
        self.progress.told().id.clone().ok_or_else(|| "no act made a sandbox".to_owned())
    }

    async fn make(&self) -> Result<String, String> {
        let wanted = Wanted { key: self.key.to_owned(), cold: self.cold };
        self.asked(Deed::Create)?;
        self.progress.told().wanted = Some(wanted.clone());
        let id = keyed::create(self.data, &wanted).await?;
        self.progress.told().id = Some(id.clone());
        self.answered(Deed::Create);
        Ok(id)
    }

    /// Leaves a file, and a process that is started once.
    async fn work(&self, id: &str) -> Result<(), String> {
        self.go_on()?;
        shell(self.client, id, &format!("echo {} > /root/kept && sync", self.key)).await?;
        self.progress.told().has_file = true;
        self.go_on()?;
        keyed::start(self.data, id, self.key).await.map(drop)
    }

    async fn end(&self, id: &str) -> Result<(), String> {
        self.asked(Deed::Destroy)?;
        self.client.destroy(id).await.map_err(text)?;
        self.answered(Deed::Destroy);
        Ok(())
    }

    async fn pause(&self, id: &str) -> Result<(), String> {
        self.asked(Deed::Pause)?;
        self.client.pause(id, &ModeRequest::default()).await.map_err(text)?;
        self.answered(Deed::Pause);
        Ok(())
    }

    async fn resume(&self, mode: Option<&str>) -> Result<(), String> {
        let id = self.known()?;
        self.asked(Deed::Resume)?;
        self.progress.told().gave_memory_up |= mode.is_some();
        let request = ModeRequest { mode: mode.map(str::to_owned) };
        self.client.resume(&id, &request).await.map_err(text)?;
        self.answered(Deed::Resume);
        Ok(())
    }

    /// Its journal is as long as if it had been paused hundreds of times: by lines that say again what is so.
    fn lengthen(&self, id: &str) -> Result<(), String> {
        self.go_on()?;
        let journal = self.data.join("sandboxes").join(id).join("journal");
        let lines = "{\"step\":\"repaired\",\"protocol\":null}\n".repeat(2000);
        let appended =
            fs::OpenOptions::new().append(true).open(&journal).and_then(|mut file| file.write_all(lines.as_bytes()));
        appended.map_err(|e| e.to_string())
    }

    /// Its guest's interface goes down: whoever asks its agent waits for ever.
    async fn cut_off(&self, id: &str) -> Result<(), String> {
        self.go_on()?;
        // Later, so that this command is still answered; down is the flag that says up taken away.
        let down = "(sleep 1; echo 0x1002 > /sys/class/net/eth0/flags) >/dev/null 2>&1 &";
        shell(self.client, id, down).await?;
        until("its agent is not cut off", LIMIT, async || {
            match tokio::time::timeout(UNANSWERED, shell(self.client, id, "true")).await {
                Ok(Ok(_)) if self.go_on().is_ok() => Err("it answers".to_owned()),
                _ => Ok(()),
            }
        })
        .await
    }

    /// As soon as the VM is the sandbox its VMM dies; what was kept of its memory is given up, and it stays with its disk.
    async fn resume_fails(&self) -> Result<(), String> {
        let id = self.known()?;
        self.asked(Deed::Resume)?;
        self.progress.told().gave_memory_up = true;
        let dir = self.data.join("sandboxes").join(&id);
        let strike = async {
            let runs = until("it does not run", LIMIT, async || {
                if kept::read(&dir)?.kept.is_none() || self.go_on().is_err() {
                    Ok(())
                } else {
                    Err("it is paused".to_owned())
                }
            });
            runs.await.map(|()| checker::kill_of(self.data, &id, Victim::Vmm))
        };
        let request = ModeRequest::default();
        let (resumed, struck) = tokio::join!(self.client.resume(&id, &request), strike);
        match (resumed, struck?) {
            (Ok(_), _) => Err("its agent answered, though it was cut off".into()),
            (Err(why), false) => Err(format!("there was no VMM to kill: {why}")),
            (Err(_), true) => self.becomes(&id, SandboxStatus::Paused).await,
        }
    }

    /// Waits until its memory needs no diff any more.
    async fn flat(&self, id: &str) -> Result<(), String> {
        let dir = self.data.join("sandboxes").join(id);
        until("the memory is not flat", LIMIT, async || {
            let kept = kept::read(&dir)?.kept.ok_or("it is not paused")?;
            if kept.diff && self.go_on().is_ok() { Err("it has a diff".to_owned()) } else { Ok(()) }
        })
        .await
    }

    /// Its VMM is killed: its event is told, taken in and forgotten.
    async fn own_end(&self) -> Result<(), String> {
        let made = self.client.create(&request()).await.map_err(text)?;
        checker::kill_of(self.data, &made.id, Victim::Vmm);
        self.becomes(&made.id, SandboxStatus::Stopped).await
    }

    async fn becomes(&self, id: &str, status: SandboxStatus) -> Result<(), String> {
        until("it does not end", LIMIT, async || {
            let now = self.client.sandbox(id).await.map_err(text)?.status;
            if now == status || self.go_on().is_err() { Ok(()) } else { Err(format!("it is {now}")) }
        })
        .await
    }

    /// Without its program no keeper starts.
    async fn fail(&self) -> Result<(), String> {
        let hidden = hide_keeper(self.data);
        let made = self.client.create(&request()).await;
        if let Some((from, to)) = hidden {
            // Atoll may have been started again meanwhile, and have it.
            let _ = fs::rename(to, from);
        }
        if made.is_err() { Ok(()) } else { Err("it was made without a keeper".into()) }
    }

    /// Uses are written down every few seconds.
    async fn use_resident(&self) -> Result<(), String> {
        if let Some(resident) = self.resident {
            shell(self.client, resident, "echo hello").await?;
        }
        for _ in 0..120 {
            self.go_on()?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    async fn limits(&self) -> Result<(), String> {
        // No two are the same, or nothing would change; none comes to its end.
        static NEXT: AtomicI64 = AtomicI64::new(1_000_000);
        let Some(resident) = self.resident else { return Ok(()) };
        let timeout_sec = NEXT.fetch_add(1, Ordering::SeqCst);
        let change = UpdateSandboxRequest { timeout_sec: Some(timeout_sec), ..UpdateSandboxRequest::default() };
        self.client.update(resident, &change).await.map_err(text)?;
        self.progress.told().limit = Some(timeout_sec);
        Ok(())
    }

    async fn expire(&self) -> Result<(), String> {
        let id = self.make().await?;
        self.work(&id).await?;
        self.asked(Deed::Pause)?;
        let soon = UpdateSandboxRequest { timeout_sec: Some(1), ..UpdateSandboxRequest::default() };
        self.client.update(&id, &soon).await.map_err(text)?;
        self.becomes(&id, SandboxStatus::Paused).await
    }

    async fn template(&self) -> Result<(), String> {
        let id = self.make().await?;
        self.work(&id).await?;
        self.template_of(&id).await?;
        self.go_on()?;
        let from = CreateSandboxRequest { template: Some(template_of(self.key)), ..CreateSandboxRequest::default() };
        let copy = self.client.create(&from).await.map_err(text)?;
        self.go_on()?;
        self.client.destroy(&copy.id).await.map_err(text)?;
        self.delete_template().await
    }

    async fn template_of(&self, id: &str) -> Result<(), String> {
        let request = CreateSnapshotRequest { sandbox_id: id.to_owned(), name: Some(template_of(self.key)) };
        self.go_on()?;
        self.progress.told().template = Some((Deed::Template, false));
        let mut tries = 1;
        loop {
            match self.client.create_snapshot(&request, false).await {
                Ok(_) => break,
                Err(ClientError::Refused(problem))
                    if problem.code == atoll_api::ErrorCode::AgentBusy && tries < TRIES =>
                {
                    tries += 1;
                }
                Err(error) => return Err(text(error)),
            }
        }
        self.progress.told().template = Some((Deed::Template, true));
        Ok(())
    }

    async fn delete_template(&self) -> Result<(), String> {
        self.go_on()?;
        self.progress.told().template = Some((Deed::Delete, false));
        self.client.delete_snapshot(&template_of(self.key)).await.map_err(text)?;
        self.progress.told().template = Some((Deed::Delete, true));
        Ok(())
    }
}

fn hide_keeper(data: &Path) -> Option<(PathBuf, PathBuf)> {
    let program = fs::read_dir(data.join("bin")).ok()?.flatten().next()?.path();
    let hidden = data.join("bin/hidden");
    fs::rename(&program, &hidden).ok()?;
    Some((program, hidden))
}
