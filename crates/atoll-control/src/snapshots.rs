//! Templates that teams make of their sandboxes.
//!
//! How it works: the intent is written down, the host makes the template under a fresh id, and only when it stands does its name point
//! to it: an overwrite gives the name to the new one and puts the old one on the way out in the same transaction. A template on the way
//! out keeps its row until its host says that its files are gone; a delete whose files cannot be removed gives the name back.
//! What was cut off is finished by [`crate::background`].
//!
//! Deliberately absent: base templates; they are images, known to hosts.

use std::collections::BTreeMap;

use atoll_domain::access::Action;
use atoll_domain::audit::AuditAction;
use atoll_domain::happening::HappeningKind;
use atoll_domain::host::{Call, HostError, MakeTemplate, OWN_TEMPLATE, SandboxSecrets, TemplateFacts};
use atoll_domain::record::{Sandbox, Template, TemplateKind};
use atoll_domain::{Invalid, Principal, SandboxStatus, TeamId, validate};
use atoll_store::{OperationKind, Step};

use crate::control::Busy;
use crate::random::{bytes, hex};
use crate::sandboxes::is_refusal;
use crate::{Control, ControlError, What};

/// Another name of `base`.
const MINIMAL: &str = "minimal";

/// What a user asks for.
#[derive(Debug, Clone, Default)]
pub struct SnapshotInput {
    /// The sandbox.
    pub sandbox_id: String,
    /// The template's name; absent means that one is made.
    pub name: Option<String>,
    /// Whether a template of that name gives way.
    pub overwrite: bool,
}

/// A template that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeSnapshot {
    /// The template.
    pub template: Template,
    /// How long the sandbox stood still for it, in microseconds.
    pub stood_still_micros: u64,
}

/// What is to be made.
struct Wanted {
    id: String,
    name: String,
    overwrite: bool,
}

impl Control {
    /// Makes a template of a running or paused sandbox, which returns to the state that it had.
    ///
    /// # Errors
    /// A name that is none, is taken, or is a base template's; a sandbox that is not found or neither runs nor is paused, or is paused without
    /// its memory; an agent that does not answer; or what the host says.
    pub async fn create_snapshot(
        &self,
        principal: &Principal,
        input: SnapshotInput,
    ) -> Result<MadeSnapshot, ControlError> {
        Self::authorise(principal, Action::UseSandboxes)?;
        let name = match input.name.filter(|name| !name.is_empty()) {
            Some(name) => validate::snapshot_name(&name)?.to_owned(),
            None => format!("template-{}", hex(&bytes::<4>()?)),
        };
        if input.sandbox_id.is_empty() {
            return Err(Invalid::new("sandbox_id", "required", "name the sandbox").into());
        }
        let sandbox = self.owned(principal, &input.sandbox_id).await?;
        if !matches!(sandbox.status, SandboxStatus::Running | SandboxStatus::Paused) {
            return Err(ControlError::NotRunning { id: input.sandbox_id, status: sandbox.status });
        }
        let bases = self.driver().capacity().await?.templates;
        if [MINIMAL, OWN_TEMPLATE].contains(&name.as_str()) || bases.contains(&name) {
            return Err(ControlError::Conflict { what: format!("a base template named `{name}`") });
        }
        if !input.overwrite && self.store().template(&sandbox.team, &name).await?.is_some() {
            return Err(taken(&name));
        }
        let wanted = Wanted { id: format!("tpl-{}", hex(&bytes::<16>()?)), name, overwrite: input.overwrite };
        let busy = self.busy(&sandbox.id);
        let (control, principal) = (self.clone(), principal.clone());
        let task = self.spawn(async move { control.carry_out_snapshot(&principal, &sandbox, wanted, busy).await });
        task.await.map_err(|_| ControlError::Stopping)?
    }

    async fn carry_out_snapshot(
        &self,
        principal: &Principal,
        sandbox: &Sandbox,
        wanted: Wanted,
        // Until the outcome is written down: an open call that nobody carries out is taken for cut off, and its template dropped.
        _busy: Busy,
    ) -> Result<MadeSnapshot, ControlError> {
        if sandbox.status == SandboxStatus::Paused {
            self.end_of_its_pause(sandbox).await?;
        }
        let call = Self::call(sandbox.incarnation)?;
        let tx = self.store().begin(Step::SnapshotIntent).await?;
        let (kind, subject) = (OperationKind::Snapshot, Some(wanted.id.as_str()));
        tx.begin_operation_on(&call, &sandbox.id, kind, subject, self.now()).await?;
        tx.commit().await?;
        let request = MakeTemplate { template: wanted.id.clone() };
        let answer = self.driver().make_template(call.clone(), sandbox.id.clone(), request).await;
        match answer {
            Ok(facts) => self.note_snapshot(principal, sandbox, &call, &wanted, &facts).await,
            Err(error) => {
                let now = self.now();
                let tx = self.store().begin(Step::SnapshotDone).await?;
                if !is_refusal(&error) {
                    let mut row =
                        self.snapshot_row(principal, AuditAction::SnapshotCreateFailed, sandbox, &wanted.name);
                    row.metadata.insert("reason".into(), error.told());
                    tx.audit(&row).await?;
                }
                tx.finish_operation(&call.operation, now).await?;
                tx.commit().await?;
                Err(refused(sandbox, error))
            }
        }
    }

    /// Gives the name to what was made; what had it goes.
    async fn note_snapshot(
        &self,
        principal: &Principal,
        sandbox: &Sandbox,
        call: &Call,
        wanted: &Wanted,
        facts: &TemplateFacts,
    ) -> Result<MadeSnapshot, ControlError> {
        let now = self.now();
        let template = Template {
            id: wanted.id.clone(),
            team: sandbox.team.clone(),
            host: sandbox.host.clone(),
            name: wanted.name.clone(),
            kind: TemplateKind::Snapshot,
            shape: facts.shape,
            size_bytes: facts.bytes,
            objects: Vec::new(),
            created_at: now,
            removed_at: None,
        };
        // Copies begin with the token of this sandbox's agent; its variables are not theirs.
        let secrets = self.sealing().open(&sandbox.id, self.store().secrets(&sandbox.id).await?.as_deref())?;
        let token = SandboxSecrets { token: secrets.token, envs: BTreeMap::new() };
        let source = self.sealing().seal(&sandbox.id, &token)?;
        let tx = self.store().begin(Step::SnapshotDone).await?;
        let old = tx.template(&sandbox.team, &wanted.name).await?;
        let lost = old.is_some() && !wanted.overwrite;
        if !lost {
            if let Some(old) = &old {
                tx.remove_template(&old.id, now).await?;
            }
            tx.insert_template(&template).await?;
            tx.keep_template_source(&template.id, &sandbox.id, &source).await?;
            tx.audit(&self.snapshot_row(principal, AuditAction::SnapshotCreate, sandbox, &wanted.name)).await?;
            let what = Some(format!("template {}", wanted.name));
            tx.happened(&sandbox.id, &self.happening(sandbox, HappeningKind::Snapshotted, what)).await?;
        }
        tx.finish_operation(&call.operation, now).await?;
        tx.commit().await?;
        if lost {
            // Somebody else took the name meanwhile. If this fails the loop finds it, as nothing names it.
            self.driver().drop_template(wanted.id.clone()).await?;
            return Err(taken(&wanted.name));
        }
        if let Some(old) = old {
            // The new one stands; what is left of the old one is the loop's if it cannot go now.
            if let Err(error) = self.drop_removed(&old.id).await {
                tracing::warn!(template = %old.id, %error, "an overwritten template could not be removed yet");
            }
        }
        Ok(MadeSnapshot { template, stood_still_micros: facts.stood_still_micros })
    }

    /// A team's templates, the newest first; of one kind (`base` or `snapshot`) if it is named.
    ///
    /// # Errors
    /// A kind that is none.
    pub async fn snapshots(&self, principal: &Principal, kind: Option<&str>) -> Result<Vec<Template>, ControlError> {
        let team = team(principal)?;
        let kind = match kind {
            None | Some("") => None,
            Some(text) => {
                let unknown = || Invalid::new("type", "unknown", "use `base` or `snapshot`");
                Some(TemplateKind::parse(text).ok_or_else(unknown)?)
            }
        };
        Ok(self.store().templates(team, kind).await?)
    }

    /// One of a team's templates.
    ///
    /// # Errors
    /// Not found.
    pub async fn snapshot(&self, principal: &Principal, name: &str) -> Result<Template, ControlError> {
        let found = self.store().template(team(principal)?, name).await?;
        let id = || name.chars().take(64).collect();
        found.ok_or_else(|| ControlError::NotFound { what: What::Template, id: id() })
    }

    /// Deletes a template. What rests on it goes on; its files go with the last of that.
    ///
    /// # Errors
    /// Not found; files that cannot be removed, and then the template stays.
    pub async fn delete_snapshot(&self, principal: &Principal, name: &str) -> Result<(), ControlError> {
        let template = self.snapshot(principal, name).await?;
        let (control, principal) = (self.clone(), principal.clone());
        let task = self.spawn(async move { control.carry_out_delete(&principal, &template).await });
        task.await.map_err(|_| ControlError::Stopping)?
    }

    async fn carry_out_delete(&self, principal: &Principal, template: &Template) -> Result<(), ControlError> {
        let row = |action| {
            let (team, name) = (&template.team, template.name.clone());
            self.audit_of(principal, action, team, name, [("template_id".to_owned(), template.id.clone())].into())
        };
        let tx = self.store().begin(Step::TemplateRemoved).await?;
        if !tx.remove_template(&template.id, self.now()).await? {
            // Somebody else's delete, or an overwrite, has it already.
            return Ok(());
        }
        tx.audit(&row(AuditAction::SnapshotDelete)).await?;
        tx.commit().await?;
        let dropped = self.drop_removed(&template.id).await;
        if dropped.is_err() {
            let tx = self.store().begin(Step::TemplateGone).await?;
            // Its name may stand for another meanwhile; then it stays on the way out, and the loop goes on with it.
            if tx.template(&template.team, &template.name).await?.is_none() && tx.keep_template(&template.id).await? {
                tx.audit(&row(AuditAction::SnapshotDeleteFailed)).await?;
                tx.commit().await?;
            }
        }
        dropped
    }

    /// Asks the host for the end of a template that is on the way out, and forgets it.
    pub(crate) async fn drop_removed(&self, id: &str) -> Result<(), ControlError> {
        let Some(_dropping) = self.dropping(id) else { return Ok(()) };
        self.driver().drop_template(id.to_owned()).await?;
        let tx = self.store().begin(Step::TemplateGone).await?;
        tx.forget_template(id).await?;
        tx.commit().await?;
        Ok(())
    }

    fn snapshot_row(
        &self,
        principal: &Principal,
        action: AuditAction,
        sandbox: &Sandbox,
        name: &str,
    ) -> atoll_domain::record::AuditEntry {
        let metadata = [("sandbox_id".to_owned(), sandbox.id.to_string())].into();
        self.audit_of(principal, action, &sandbox.team, name.to_owned(), metadata)
    }
}

fn team(principal: &Principal) -> Result<&TeamId, ControlError> {
    Control::authorise(principal, Action::UseSandboxes)?;
    principal.team().ok_or(ControlError::Forbidden { who: "the system" })
}

/// What a host's no means to who asks for a template.
fn refused(sandbox: &Sandbox, error: HostError) -> ControlError {
    match error {
        // Said of a resume, the way out is another.
        HostError::MemoryUnusable(why) => ControlError::NoMemoryToCopy { id: sandbox.id.to_string(), why },
        error => crate::sandboxes::gone(&sandbox.id, error),
    }
}

fn taken(name: &str) -> ControlError {
    ControlError::Conflict { what: format!("a template named `{name}`") }
}
