//! The body of a prediction request that is an image. `scripts/fuzz.py` bounds what may be set aside for one.

#![no_main]

use std::sync::LazyLock;

use leeway::tensor::DType;
use leeway_fuzz::{Stage, input};
use libfuzzer_sys::fuzz_target;
use serde_json::json;

/// 64 Ki pixels: half a megabyte with four channels of 16 bits.
const MAX_PIXELS: u32 = 1 << 16;

static STAGES: LazyLock<[Stage; 4]> = LazyLock::new(|| {
    // libfuzzer's own hook ends the process at any panic. Those of decoders are caught: only one that is not is a crash.
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    [
        Stage::new(
            json!({ "kind": "image", "size": [8, 8], "resize": "crop", "max_pixels": MAX_PIXELS }),
            vec![input("x", DType::F32, &[3, 8, 8].map(Some))],
        ),
        Stage::new(
            json!({ "kind": "image", "size": [5, 9], "resize": "fit", "colour": "gray", "max_pixels": MAX_PIXELS }),
            vec![input("x", DType::U8, &[5, 9, 1].map(Some))],
        ),
        Stage::new(
            json!({ "kind": "image", "size": [8, 4], "resize": "pad", "filter": "opencv-linear", "max_pixels": MAX_PIXELS }),
            vec![input("x", DType::F32, &[3, 8, 4].map(Some))],
        ),
        Stage::new(
            json!({
                "kind": "image", "size": { "max_side": 96, "multiple": 32 }, "resize": "fit", "filter": "opencv-nearest",
                "max_pixels": MAX_PIXELS,
            }),
            vec![input("x", DType::F32, &[Some(3), None, None])],
        ),
    ]
});

fuzz_target!(|image: &[u8]| {
    for stage in STAGES.iter() {
        stage.run(|stage, deadline| stage.transform_raw("application/octet-stream", image, deadline), Some(1));
    }
});
