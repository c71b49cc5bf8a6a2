//! What was attached to which interface and why so, for whoever asks the agent.
use serde::{Deserialize, Serialize};

use super::{Attachments, Role};

/// An interface that the agent serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServedInterface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Whether it leads out of the node; else to a pod.
    pub is_uplink: bool,
    /// `native`, `generic` or `off`.
    pub xdp: String,
    /// Why no better mode; `None` where there is none, and for pods' interfaces.
    pub reason: Option<String>,
}

impl Attachments {
    /// The interfaces that are served, by index.
    #[must_use]
    pub fn served(&self) -> Vec<ServedInterface> {
        let served = self.attached.iter().map(|(index, attached)| ServedInterface {
            name: attached.name.clone(),
            index: *index,
            is_uplink: attached.role == Role::Uplink,
            xdp: attached.xdp.name().to_owned(),
            reason: attached.xdp.reason().map(str::to_owned),
        });
        served.collect()
    }
}
