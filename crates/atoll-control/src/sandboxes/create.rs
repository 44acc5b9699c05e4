//! Making a sandbox.
//!
//! How it works: the row, the intent and the audit row are one transaction; then a task of the control plane's own calls the host and
//! writes the outcome down in a second one. The request only waits for that task, so a client that goes away leaves either a
//! running sandbox or none. If the sandbox was destroyed meanwhile, what the host made is ended again.
//!
//! Deliberately absent: choosing a host; there is one.

use std::collections::BTreeMap;

use atoll_domain::access::Action;
use atoll_domain::admission::admit_sandbox;
use atoll_domain::audit::AuditAction;
use atoll_domain::happening::HappeningKind;
use atoll_domain::host::{
    Call, CreateSandbox, GuestToken, HostError, OWN_TEMPLATE, OwnFiles, SandboxFacts, SandboxSecrets, SandboxSpec,
};
use atoll_domain::record::Sandbox;
use atoll_domain::ttl::{Lifetime, LifetimeChange};
use atoll_domain::validate::{self, HostLimits};
use atoll_domain::{Incarnation, Invalid, Principal, SandboxId, SandboxStatus};
use atoll_store::{OperationKind, Step};

use crate::control::Busy;
use crate::once::{Done, Once};
use crate::{Control, ControlError, What, random};

/// The template that is taken when none is named.
const BASE: &str = "base";
const MAX_LABELS: usize = 32;
const MAX_LABEL_BYTES: usize = 256;

/// What a user asks for; absent means the default.
#[derive(Debug, Clone, Default)]
pub struct CreateInput {
    /// Name of a template.
    pub template: Option<String>,
    /// Virtual CPUs.
    pub vcpus: Option<i64>,
    /// Memory in MiB.
    pub memory_mb: Option<i64>,
    /// Writable disk in MiB.
    pub disk_mb: Option<i64>,
    /// How long it may live without being asked for.
    pub lifetime: LifetimeChange,
    /// `cold`: it must boot, though a golden could be restored.
    pub boot: Option<String>,
    /// `none` or `internet`.
    pub network: Option<String>,
    /// Variables of every process in it.
    pub envs: BTreeMap<String, String>,
    /// Labels.
    pub metadata: BTreeMap<String, String>,
    /// Files of the host instead of Atoll's own.
    pub own: OwnFiles,
}

/// What a sandbox is to be, and how it comes to be.
struct Planned {
    sandbox: Sandbox,
    /// Id of the snapshot template that it starts from.
    snapshot: Option<String>,
    /// The token that its agent has until it is told its own.
    inherited: Option<GuestToken>,
    cold: bool,
}

impl Control {
    /// Makes a sandbox; answers when it runs.
    ///
    /// # Errors
    /// Input out of bounds, an unknown template, or what the host says.
    pub async fn create_sandbox(&self, principal: &Principal, input: CreateInput) -> Result<Sandbox, ControlError> {
        self.create_sandbox_once(principal, input, None).await.map(|done| done.value)
    }

    /// The same, once, however often it is asked under one idempotency key. A create that failed may be asked again.
    ///
    /// # Errors
    /// As [`Control::create_sandbox`]; under a key also: another request had it, or the first is under way.
    pub async fn create_sandbox_once(
        &self,
        principal: &Principal,
        input: CreateInput,
        once: Option<Once>,
    ) -> Result<Done<Sandbox>, ControlError> {
        Self::authorise(principal, Action::UseSandboxes)?;
        let claim = match once {
            None => None,
            Some(once) => match self.claim(principal, "create".into(), once).await? {
                (claim, None) => Some((claim, None)),
                (claim, Some(kept)) => match self.made_before(&kept.subject).await? {
                    Some(sandbox) => return Ok(Done::before(sandbox)),
                    None => Some((claim, Some(kept.subject))),
                },
            },
        };
        let planned = self.plan_sandbox(principal, &input).await?;
        let sandbox = &planned.sandbox;
        let call = Self::call(sandbox.incarnation)?;
        let (own, envs) = (input.own, input.envs);
        let secrets = SandboxSecrets { token: GuestToken::from_random(random::bytes()?), envs };
        let sealed = self.sealing().seal(&sandbox.id, &secrets)?;
        let busy = self.busy(&sandbox.id);
        let tx = self.store().begin(Step::CreateIntent).await?;
        if let Some((claim, failed)) = claim {
            if let Some(failed) = failed {
                tx.forget_request(&claim.place, &failed).await?;
            }
            let kept = claim.kept(sandbox.id.as_str(), self.key_time());
            if !tx.keep_request(&claim.place, &kept, self.remembered_since()).await? {
                return Err(ControlError::InProgress);
            }
        }
        tx.insert_sandbox(sandbox).await?;
        tx.keep_secrets(&sandbox.id, &sealed).await?;
        tx.begin_operation(&call, &sandbox.id, OperationKind::Create, sandbox.created_at).await?;
        tx.audit(&self.audit(principal, AuditAction::SandboxCreate, sandbox)).await?;
        tx.happened(&sandbox.id, &self.happening(sandbox, HappeningKind::Created, None)).await?;
        tx.commit().await?;
        let (control, principal, id) = (self.clone(), principal.clone(), sandbox.id.clone());
        let work = async move { control.carry_out_create(principal, planned, call, secrets, own, busy).await };
        let task = self.spawn(work);
        task.await.map_err(|_| ControlError::Stopping)??;
        let made = self.store().sandbox(&id).await?;
        made.map(Done::now).ok_or(ControlError::NotFound { what: What::Sandbox, id: id.to_string() })
    }

    /// What an earlier request under the same key made; none when that failed.
    async fn made_before(&self, id: &str) -> Result<Option<Sandbox>, ControlError> {
        let Ok(id) = id.parse() else { return Ok(None) };
        match self.store().sandbox(&id).await? {
            Some(sandbox) if sandbox.status == SandboxStatus::Pending => Err(ControlError::InProgress),
            Some(sandbox) if sandbox.status == SandboxStatus::Error => Ok(None),
            other => Ok(other),
        }
    }

    /// Checks the input and the host's room, and writes out what the sandbox is to be.
    async fn plan_sandbox(&self, principal: &Principal, input: &CreateInput) -> Result<Planned, ControlError> {
        let team = principal.team().ok_or(ControlError::Forbidden { who: "the system" })?.clone();
        let asked = validate::template_name(input.template.as_deref())?;
        let network = validate::network(input.network.as_deref())?;
        let cold = validate::boots_cold(input.boot.as_deref())?;
        let now = self.now();
        let lifetime = Lifetime::default().changed(&input.lifetime, now)?;
        validate::envs(input.envs.iter().map(|(k, v)| (k.as_str(), v.as_str())))?;
        check_labels(&input.metadata)?;
        check_own(principal, &input.own)?;
        let capacity = self.driver().capacity().await?;
        let limits = HostLimits { cpus: capacity.cpus, memory_mb: capacity.memory_mb, isolation: capacity.isolation };
        let template = match asked {
            "base" | "minimal" if input.own.rootfs.is_some() => OWN_TEMPLATE,
            "minimal" => "base",
            other => other,
        };
        if !input.own.is_empty() && !matches!(template, "base" | OWN_TEMPLATE) {
            let detail = "a sandbox starts from a template or from files of the host, not from both";
            return Err(Invalid::new("template", "malformed", detail).into());
        }
        let known = input.own.rootfs.is_some() || capacity.templates.iter().any(|known| known == template);
        let snapshot = if known {
            None
        } else {
            let unknown = || ControlError::NotFound { what: What::Template, id: asked.to_owned() };
            Some(self.store().template(&team, template).await?.ok_or_else(unknown)?)
        };
        let shape = match &snapshot {
            None => validate::shape(input.vcpus, input.memory_mb, input.disk_mb, limits)?,
            Some(_) if cold => {
                let detail = "a snapshot template is restored; leave it out, or name a base template";
                return Err(Invalid::new("boot", "malformed", detail).into());
            }
            Some(snapshot) => validate::shape_of_copy(input.vcpus, input.memory_mb, input.disk_mb, snapshot.shape)?,
        };
        // The host looks again, when all of it is written down already.
        admit_sandbox(shape, &lifetime, capacity.room)?;
        let sandbox = Sandbox {
            id: SandboxId::from_random(random::bytes()?),
            team,
            host: self.own_host().clone(),
            template: template.to_owned(),
            status: SandboxStatus::Pending,
            reason: None,
            incarnation: Incarnation::FIRST,
            shape,
            network,
            lifetime,
            paused: None,
            metadata: input.metadata.clone(),
            guest_ip: None,
            host_ip: None,
            created_at: now,
            started_at: None,
            last_active_at: None,
            last_updated: now,
            lifetime_revision: 0,
        };
        let snapshot = snapshot.map(|snapshot| snapshot.id);
        let inherited = match &snapshot {
            Some(id) => match self.store().template_source(id).await? {
                Some((source, sealed)) => Some(self.sealing().open(&source, Some(&sealed))?.token),
                None => None,
            },
            None => None,
        };
        Ok(Planned { sandbox, snapshot, inherited, cold })
    }

    async fn carry_out_create(
        &self,
        principal: Principal,
        planned: Planned,
        call: Call,
        secrets: SandboxSecrets,
        own: OwnFiles,
        _busy: Busy,
    ) -> Result<(), ControlError> {
        let Planned { sandbox, snapshot, inherited, cold } = planned;
        let spec = SandboxSpec {
            id: sandbox.id.clone(),
            // What lies under every snapshot is named by its own manifest.
            template: if snapshot.is_some() { BASE.to_owned() } else { sandbox.template.clone() },
            shape: sandbox.shape,
            network: sandbox.network,
            default_user: "root".into(),
            lifetime: sandbox.lifetime,
            snapshot,
            // No golden was made of these files.
            cold: cold || !own.is_empty(),
            own,
        };
        let token = secrets.token.clone();
        let request = CreateSandbox { spec, secrets, inherited };
        let made = self.driver().create(call.clone(), request).await;
        match made {
            Ok(facts) => {
                self.remember_token(&sandbox.id, token);
                self.note_created(&sandbox, &call, &facts).await
            }
            Err(error) => {
                self.note_create_failed(&principal, &sandbox, &call, &error).await?;
                Err(error.into())
            }
        }
    }

    async fn note_created(&self, sandbox: &Sandbox, call: &Call, facts: &SandboxFacts) -> Result<(), ControlError> {
        let now = self.now();
        let tx = self.store().begin(Step::CreateDone).await?;
        let wanted = tx.mark_running(facts, now).await?;
        if wanted {
            tx.happened(&sandbox.id, &self.happening(sandbox, HappeningKind::Started, None)).await?;
        }
        tx.finish_operation(&call.operation, now).await?;
        tx.commit().await?;
        if wanted {
            return Ok(());
        }
        self.end_unwanted(&sandbox.id, sandbox.incarnation).await
    }

    /// Ends on its host what was destroyed before the host had it, so that the destroy found nothing there; and says so.
    pub(super) async fn end_unwanted(&self, id: &SandboxId, life: Incarnation) -> Result<(), ControlError> {
        self.forget(id);
        self.driver().destroy(Self::call(life)?, id.clone()).await?;
        Err(ControlError::NotRunning { id: id.to_string(), status: SandboxStatus::Stopped })
    }

    async fn note_create_failed(
        &self,
        principal: &Principal,
        sandbox: &Sandbox,
        call: &Call,
        error: &HostError,
    ) -> Result<(), ControlError> {
        let now = self.now();
        let tx = self.store().begin(Step::CreateFailed).await?;
        // Called off by a destroy: the row and its audit are the destroy's, which has not been answered yet.
        let called_off = tx.is_being_destroyed(&sandbox.id).await?;
        if !called_off
            && tx.mark_over(&sandbox.id, sandbox.incarnation, SandboxStatus::Error, &error.told(), now).await?
        {
            tx.audit(&self.audit(principal, AuditAction::SandboxCreateFailed, sandbox)).await?;
            let why = Some(error.told());
            tx.happened(&sandbox.id, &self.happening(sandbox, HappeningKind::Failed, why)).await?;
        }
        tx.finish_operation(&call.operation, now).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// Whether somebody may name files of the host, and whether they are named well.
fn check_own(principal: &Principal, own: &OwnFiles) -> Result<(), ControlError> {
    if own.is_empty() {
        return Ok(());
    }
    Control::authorise(principal, Action::UseHostPaths).map_err(|_| ControlError::Forbidden {
        who: "an API key: `kernel` and `rootfs` are taken over the data directory's socket, from root or its owner",
    })?;
    for (field, path) in [("kernel", &own.kernel), ("rootfs", &own.rootfs)] {
        if let Some(path) = path {
            validate::host_path(field, path)?;
        }
    }
    Ok(())
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Invalid> {
    if labels.len() > MAX_LABELS {
        return Err(Invalid::new("metadata", "out_of_range", format!("{} labels; at most {MAX_LABELS}", labels.len())));
    }
    for (key, value) in labels {
        if key.is_empty() || key.len() > MAX_LABEL_BYTES || value.len() > MAX_LABEL_BYTES {
            let detail = format!("keys and values have 1 to {MAX_LABEL_BYTES} bytes");
            return Err(Invalid::new("metadata", "out_of_range", detail));
        }
    }
    Ok(())
}
