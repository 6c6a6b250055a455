//! A repository in an object store (Amazon S3, Google Cloud Storage, Azure Blob Storage), or on a static web server.
//!
//! - `store.rs` is the store of models. `listing.rs` finds the models and versions in a list of objects, and `remembered.rs` keeps
//!   the last listing and the small files on disk.
//! - `objects.rs` lists, reads and writes objects for threads that may wait; `own_runtime.rs` has the threads that speak to the
//!   network, `connection.rs` makes a client, and `store_problem.rs` is what went wrong. `web_index.rs` is the list of files of a
//!   web server.
//! - `download.rs` downloads a file into `content_cache.rs`, where files are found by their digests.
//! - `publish.rs` uploads a version.
//!
//! A poll lists all objects, and reads only the `model.toml` and manifests that are new or changed: with N objects, it
//! makes ⌈N / 1000⌉ requests if nothing has changed. The index of a web server takes one request.

mod connection;
mod content_cache;
mod download;
mod listing;
mod objects;
mod own_runtime;
mod publish;
mod remembered;
mod store;
mod store_problem;
mod web_index;

pub use self::publish::Published;
pub use self::store::RemoteStore;
pub use self::web_index::{INDEX_FILE, write_index};
