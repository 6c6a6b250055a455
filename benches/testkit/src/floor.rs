//! The floor program (`benches/floor.rs`) as a process.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use crate::places::{example, onnxruntime};
use crate::process::KillOnDrop;

/// The floor program (`benches/floor.rs`), killed with the bench.
pub struct Floor {
    _child: KillOnDrop,
    address: String,
}

impl Floor {
    /// Starts it with one model.
    pub fn start(model: &Path) -> Floor {
        let child = example("floor").arg(model).arg(onnxruntime()).stdout(Stdio::piped()).spawn();
        let mut child = KillOnDrop(child.expect("examples/floor: run `make bench-load`, which builds it"));
        let mut lines = BufReader::new(child.0.stdout.take().expect("its output")).lines();
        let address = lines.next().expect("an address").expect("a line");
        Floor { _child: child, address }
    }

    /// Returns a URL for clients.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}
