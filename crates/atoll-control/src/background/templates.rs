//! Brings the templates that are written down and those that the host keeps together.
//!
//! How it works: what is on the way out is asked for again until its host says that its files are gone. What the host keeps and nobody
//! wrote down was cut off in the making: the host is asked first and the open calls and rows are read afterwards, so that one that is
//! being made is never taken for one that was lost.
//!
//! Deliberately absent: a row whose files the host does not have. Nothing can be done about it here; whoever uses it is told.

use std::collections::HashSet;

use crate::{Control, ControlError};

/// What an activation did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// On the way out, and gone now.
    pub removed: Vec<String>,
    /// Nobody's, and gone now.
    pub lost: Vec<String>,
}

/// Compares and mends once.
///
/// # Errors
/// A failing database, or a host that does not answer.
pub async fn activate(control: &Control) -> Result<Status, ControlError> {
    let mut status = Status::default();
    for template in control.store().templates_on_the_way_out().await? {
        match control.drop_removed(&template.id).await {
            Ok(()) => status.removed.push(template.id),
            // The others are not to suffer from it; the next round tries again.
            Err(error) => tracing::warn!(template = %template.id, %error, "a template could not be removed yet"),
        }
    }
    let kept = control.driver().templates().await?;
    if kept.is_empty() {
        return Ok(status);
    }
    let open = control.store().open_operations().await?;
    let mut known: HashSet<String> = open.into_iter().filter_map(|operation| operation.subject).collect();
    known.extend(control.store().template_ids_on(control.own_host()).await?);
    for lost in kept.into_iter().filter(|id| !known.contains(id)) {
        tracing::warn!(template = %lost, "the host keeps a template that nobody wrote down; dropping it");
        match control.driver().drop_template(lost.clone()).await {
            Ok(()) => status.lost.push(lost),
            Err(error) => tracing::error!(template = %lost, %error, "it could not be dropped"),
        }
    }
    Ok(status)
}
