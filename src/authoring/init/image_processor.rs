//! Settings of the preprocessor `image` from Hugging Face's `preprocessor_config.json`.
//!
//! Every key of the file is known here, or the file is not used: a step that is left out would change answers in
//! silence.

use serde_json::{Map, Value, json};

/// A key of `[preprocess]` with its value, and the keys of the file that it follows from.
pub(super) type ImageSetting = (&'static str, Value, String);

/// Keys that are read here, and those that change nothing of an image.
const KNOWN_KEYS: [&str; 18] = [
    "image_processor_type",
    "feature_extractor_type",
    "processor_class",
    "_valid_processor_keys",
    "do_resize",
    "size",
    "crop_size",
    "do_center_crop",
    "resample",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
    "crop_pct",
    "do_convert_rgb",
    "do_flip_channel_order",
    "size_divisor",
];

/// Keys that have an effect only if they are true.
const ONLY_IF_TRUE: [&str; 12] = [
    "do_pad",
    "do_reduce_labels",
    "reduce_labels",
    "rescale_offset",
    "include_top",
    "do_color_quantize",
    "do_thumbnail",
    "do_align_long_axis",
    "keep_aspect_ratio",
    "do_grayscale",
    "default_to_square",
    "apply_ocr",
];

/// Keys of fast processors that say how a program calls them.
const OF_PROGRAMS: [&str; 6] =
    ["data_format", "input_data_format", "return_tensors", "device", "disable_grouping", "do_split_image"];

/// Processors that do the steps that their keys name, and no others. Some processors compute sizes of their own, as those
/// of LeViT, PoolFormer and Perceiver do.
const KNOWN_PROCESSORS: [&str; 12] = [
    "ViT",
    "DeiT",
    "CLIP",
    "ConvNext",
    "Beit",
    "Segformer",
    "MobileNetV1",
    "MobileNetV2",
    "MobileViT",
    "Bit",
    "Siglip",
    "Pvt",
];

/// Processors whose `size`, as a single number, is height and width. In others it is the shorter side.
const SQUARE: [&str; 4] = ["ViT", "DeiT", "Beit", "Segformer"];

/// Side from which ConvNext's processor stretches images instead of cropping them.
const CONVNEXT_STRETCHES: u64 = 384;

/// Returns the settings that prepare images as this processor does. `Err` with the reason if Leeway has none that do.
pub(super) fn image_settings(file: &Map<String, Value>) -> Result<Vec<ImageSetting>, String> {
    let is_known = |key: &str| KNOWN_KEYS.contains(&key) || OF_PROGRAMS.contains(&key);
    let has_effect = |value: &Value| !matches!(value, Value::Null | Value::Bool(false));
    if let Some((key, _)) = file.iter().find(|(key, value)| !is_known(key) && has_effect(value)) {
        let problem = if ONLY_IF_TRUE.contains(&key.as_str()) { "has no counterpart" } else { "is not known here" };
        return Err(format!("its key {key} {problem}"));
    }
    if file.get("size_divisor").is_some_and(has_effect) {
        return Err("it sizes each image by itself (size_divisor)".to_owned());
    }
    let processor = processor(file).ok_or("it does not name its processor (image_processor_type)")?;
    if !KNOWN_PROCESSORS.contains(&processor) {
        return Err(format!("the steps of the processor of {processor} are not known here"));
    }
    if processor != "ConvNext" && file.get("crop_pct").is_some_and(has_effect) {
        return Err("its key crop_pct has no counterpart".to_owned());
    }
    let is_on = |key: &str, default: bool| file.get(key).and_then(Value::as_bool).unwrap_or(default);
    let mut settings = sizes(file, processor, is_on("do_resize", true), is_on("do_center_crop", false))?;
    if is_on("do_flip_channel_order", false) {
        settings.push(("colour", json!("bgr"), "do_flip_channel_order".to_owned()));
    }
    let scale = match is_on("do_rescale", true) {
        true => file.get("rescale_factor").and_then(Value::as_f64).unwrap_or(1.0 / 255.0),
        false => 1.0,
    };
    settings.push(("scale", json!(scale), "rescale_factor (do_rescale)".to_owned()));
    // MobileViT's processor never normalises.
    if is_on("do_normalize", processor != "MobileViT") {
        for (key, of) in [("mean", "image_mean"), ("deviation", "image_std")] {
            match file.get(of) {
                Some(numbers @ Value::Array(_)) => settings.push((key, numbers.clone(), of.to_owned())),
                _ => return Err(format!("it normalises, but has no {of}")),
            }
        }
    }
    Ok(settings)
}

/// Returns the settings for the size of images.
fn sizes(file: &Map<String, Value>, processor: &str, resizes: bool, crops: bool) -> Result<Vec<ImageSetting>, String> {
    let crop = file.get("crop_size").and_then(square_or_sides);
    if !resizes {
        return Err("it does not resize images (do_resize)".to_owned());
    }
    let size = file.get("size").ok_or("it has no size")?;
    let shortest = size.get("shortest_edge").and_then(Value::as_u64);
    let sides = match size {
        Value::Object(_) => square_or_sides(size),
        Value::Number(_) if SQUARE.contains(&processor) => square_or_sides(size),
        _ => None,
    };
    let shortest = shortest.or_else(|| size.as_u64().filter(|_| sides.is_none()));
    let keys = |keys: &str| format!("{keys} in the file");
    let mut settings = match (sides, shortest, crops) {
        (Some([height, width]), _, false) => vec![
            ("size", json!([height, width]), keys("size")),
            ("resize", json!("stretch"), keys("size with height and width, and no do_center_crop,")),
        ],
        (Some(before), _, true) => vec![
            ("size", json!(crop.unwrap_or(before)), keys("crop_size")),
            ("resize", json!("crop"), keys("do_center_crop")),
            ("stretch_to", json!(before), keys("size")),
        ],
        (None, Some(shortest), true) => vec![
            ("size", json!(crop.ok_or("it crops, but has no crop_size")?), keys("crop_size")),
            ("resize", json!("crop"), keys("do_center_crop")),
            ("shortest", json!(shortest), keys("size.shortest_edge")),
        ],
        (None, Some(side), false) if processor == "ConvNext" => match file.get("crop_pct") {
            _ if side >= CONVNEXT_STRETCHES => vec![
                ("size", json!([side, side]), keys("size.shortest_edge")),
                ("resize", json!("stretch"), "ConvNext's processor stretches images of this size".to_owned()),
            ],
            part => {
                let part = part.and_then(Value::as_f64).unwrap_or(224.0 / 256.0);
                vec![
                    ("size", json!([side, side]), keys("size.shortest_edge")),
                    ("resize", json!("crop"), keys("crop_pct")),
                    ("shortest", json!((side as f64 / part) as u64), keys("size.shortest_edge ÷ crop_pct")),
                ]
            }
        },
        _ => return Err("its size is that of each image".to_owned()),
    };
    settings.push(filter(file)?);
    Ok(settings)
}

fn filter(file: &Map<String, Value>) -> Result<ImageSetting, String> {
    // Numbers of Pillow.
    let filter = match file.get("resample").and_then(Value::as_u64) {
        Some(0) => "nearest",
        Some(1) => "lanczos",
        Some(2) => "bilinear",
        Some(3) => "bicubic",
        Some(other) => return Err(format!("its filter {other} (resample) has no counterpart")),
        None => return Err("it does not say its filter (resample)".to_owned()),
    };
    Ok(("filter", json!(filter), "resample, a number of Pillow".to_owned()))
}

/// Returns height and width.
fn square_or_sides(size: &Value) -> Option<[u64; 2]> {
    let side = |key: &str| size.get(key).and_then(Value::as_u64);
    size.as_u64().map(|side| [side, side]).or_else(|| Some([side("height")?, side("width")?]))
}

/// Returns the name of the processor without its ending, as in `ViT`.
fn processor(file: &Map<String, Value>) -> Option<&str> {
    let of = |key: &str| file.get(key).and_then(Value::as_str);
    let name = of("image_processor_type").or_else(|| of("feature_extractor_type"))?;
    let name = name.strip_suffix("Fast").or_else(|| name.strip_suffix("Pil")).unwrap_or(name);
    name.strip_suffix("ImageProcessor").or_else(|| name.strip_suffix("FeatureExtractor"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(file: &Value, expected: std::result::Result<Value, &str>) {
        let settings = image_settings(file.as_object().unwrap());
        let settings = settings.map(|settings| {
            let only = settings.into_iter().filter(|(key, ..)| !["scale", "mean", "deviation"].contains(key));
            Value::Object(only.map(|(key, value, _)| (key.to_owned(), value)).collect())
        });
        assert_eq!(settings, expected.map_err(str::to_owned), "{file}");
    }

    /// The files of google/vit-base-patch16-224, openai/clip-vit-base-patch32, facebook/convnext-tiny-224,
    /// facebook/deit-base-distilled-patch16-224 and apple/mobilevit-small, shortened.
    #[test]
    fn images_are_sized_as_the_processor_does() {
        let with = |more: Value| {
            let mut file = json!({ "image_processor_type": "ViTImageProcessorFast", "resample": 2, "image_mean": [0.5], "image_std": [0.5] });
            file.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            file
        };
        check(
            &with(json!({ "image_processor_type": "ViTImageProcessor", "size": { "height": 224, "width": 224 } })),
            Ok(json!({ "size": [224, 224], "resize": "stretch", "filter": "bilinear" })),
        );
        check(
            &with(
                json!({ "image_processor_type": "CLIPImageProcessor", "size": 224, "crop_size": 224, "resample": 3, "do_center_crop": true }),
            ),
            Ok(json!({ "size": [224, 224], "resize": "crop", "shortest": 224, "filter": "bicubic" })),
        );
        check(
            &with(
                json!({ "image_processor_type": null, "feature_extractor_type": "ConvNextFeatureExtractor", "size": 224, "crop_pct": 0.875, "resample": 3 }),
            ),
            Ok(json!({ "size": [224, 224], "resize": "crop", "shortest": 256, "filter": "bicubic" })),
        );
        check(
            &with(
                json!({ "image_processor_type": null, "feature_extractor_type": "DeiTFeatureExtractor", "size": 256, "crop_size": 224, "do_center_crop": true }),
            ),
            Ok(json!({ "size": [224, 224], "resize": "crop", "stretch_to": [256, 256], "filter": "bilinear" })),
        );
        check(
            &with(json!({ "image_processor_type": "MobileViTImageProcessor", "size": { "shortest_edge": 288 },
                "crop_size": { "height": 256, "width": 256 }, "do_center_crop": true, "do_flip_channel_order": true })),
            Ok(json!({ "size": [256, 256], "resize": "crop", "shortest": 288, "filter": "bilinear", "colour": "bgr" })),
        );
        check(
            &with(json!({ "size": { "shortest_edge": 800, "longest_edge": 1333 } })),
            Err("its size is that of each image"),
        );
        let bit = json!({ "image_processor_type": "BitImageProcessor", "size": 224 });
        check(&with(bit), Err("its size is that of each image"));
        let levit = json!({ "image_processor_type": "LevitImageProcessor", "size": { "shortest_edge": 224 }, "do_center_crop": true });
        check(&with(levit), Err("the steps of the processor of Levit are not known here"));
        check(&with(json!({ "size": 224, "crop_pct": 0.9 })), Err("its key crop_pct has no counterpart"));
        check(
            &with(json!({ "size": 224, "image_processor_type": null })),
            Err("it does not name its processor (image_processor_type)"),
        );
        check(
            &with(json!({ "size": { "height": 8, "width": 8 }, "rescale_offset": true })),
            Err("its key rescale_offset has no counterpart"),
        );
        check(
            &with(json!({ "size": { "height": 8, "width": 8 }, "new_step": 1 })),
            Err("its key new_step is not known here"),
        );
        let size = json!({ "height": 8, "width": 8 });
        check(&with(json!({ "size": size, "image_mean": null })), Err("it normalises, but has no image_mean"));
        check(&with(json!({ "size": size, "resample": null })), Err("it does not say its filter (resample)"));
    }

    #[test]
    fn values_are_scaled_as_the_processor_does() {
        let file = json!({ "image_processor_type": "ViTImageProcessor", "size": { "height": 8, "width": 8 }, "resample": 0, "do_rescale": true,
            "rescale_factor": 0.00392156862745098, "image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1], "do_pad": false });
        let settings = image_settings(file.as_object().unwrap()).unwrap();
        let value = |key: &str| settings.iter().find(|(name, ..)| *name == key).unwrap().1.clone();
        assert_eq!(value("scale"), json!(0.00392156862745098));
        assert_eq!((value("mean"), value("deviation")), (json!([0.1, 0.2, 0.3]), json!([1, 1, 1])));
    }
}
