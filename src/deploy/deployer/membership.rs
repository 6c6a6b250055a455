//! The place of this server in its fleet.

use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{Notify, OnceCell};
use uuid::Uuid;

use crate::api::admin::Replica;
use crate::deploy::fleet::Fleet;

/// The fleet, and this server's place in it.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) fleet: Arc<dyn Fleet>,
    pub(super) id: String,
    pub(super) started_at: Timestamp,
    /// Name of this server, once it listens.
    pub(super) name: OnceCell<String>,
    /// The last reports of all servers.
    pub(super) known: Mutex<Vec<Replica>>,
    /// Notified when this server has something new to report.
    pub(super) has_news: Notify,
}

impl Membership {
    pub(super) fn new(fleet: Arc<dyn Fleet>) -> Membership {
        Membership {
            fleet,
            id: Uuid::now_v7().to_string(),
            started_at: Timestamp::now(),
            name: OnceCell::new(),
            known: Mutex::default(),
            has_news: Notify::new(),
        }
    }

    /// Returns the last reports of all servers; none if no other server can share the state.
    pub(super) fn known(&self) -> Vec<Replica> {
        self.known.lock().clone()
    }

    /// Makes this server report soon.
    pub(super) fn report_soon(&self) {
        self.has_news.notify_one();
    }
}
