//! The body of a prediction request that is sound. `scripts/fuzz.py` bounds what may be set aside for one.

#![no_main]

use std::sync::LazyLock;

use leeway::tensor::DType;
use leeway_fuzz::{Stage, input};
use libfuzzer_sys::fuzz_target;
use serde_json::json;

/// At most 192,000 samples before they are resampled, and 8,000 after it.
const MAX_SECONDS: f32 = 1.0;

static STAGES: LazyLock<[Stage; 2]> = LazyLock::new(|| {
    // libfuzzer's own hook ends the process at any panic. Those of decoders are caught: only one that is not is a crash.
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    [
        Stage::new(
            json!({ "kind": "audio", "sample_rate": 8_000, "max_seconds": MAX_SECONDS }),
            vec![input("x", DType::F32, &[None])],
        ),
        Stage::new(
            json!({ "kind": "audio", "sample_rate": 16_000, "samples": 100, "short": "pad", "long": "cut",
                "scale": 32_768, "encoding": "pcm-float32", "max_seconds": MAX_SECONDS }),
            vec![input("x", DType::F16, &[None])],
        ),
    ]
});

fuzz_target!(|sound: &[u8]| {
    for stage in STAGES.iter() {
        stage.run(|stage, deadline| stage.transform_raw("application/octet-stream", sound, deadline), Some(1));
    }
});
