//! Tests of the whole image preprocessor: settings, sizes, layouts.

use std::io::Cursor;

use proptest::prelude::*;

use super::*;
use crate::pipeline::stage_context::of_settings;
use crate::tensor::{Dim, Signature, TensorSpec};

fn stage(settings: &str, dtype: DType, row: &[Option<usize>]) -> Result<Box<dyn Preprocessor>, SetupError> {
    let row = row.iter().map(|length| length.map_or(Dim::Dynamic(None), Dim::Fixed));
    let dims = [Dim::Dynamic(None)].into_iter().chain(row).collect();
    let inputs = vec![TensorSpec { name: "x".into(), dtype, dims }];
    let settings = format!(r#"{{"kind": "image"{settings}}}"#);
    of_settings(make, &settings, &Signature { inputs, ..Signature::default() })
}

fn png(width: u32, height: u32, pixel: impl Fn(u32, u32) -> [u8; 3]) -> Vec<u8> {
    let image = image::RgbImage::from_fn(width, height, |x, y| image::Rgb(pixel(x, y)));
    let mut file = Cursor::new(Vec::new());
    image.write_to(&mut file, image::ImageFormat::Png).unwrap();
    file.into_inner()
}

/// The channels of a pixel are scaled, and written to the positions that the layout gives them.
#[test]
fn layouts_colours_and_types() {
    let file = png(2, 1, |x, _| [10 + x as u8, 20, 30]);
    let values = |settings: &str, dtype, row: &[Option<usize>]| {
        let prepared =
            stage(settings, dtype, row).unwrap().transform_raw("image/png", &file, Deadline::never()).unwrap();
        prepared.inputs.get("x").unwrap().data().clone()
    };
    let (one, two, three) = (Some(1), Some(2), Some(3));
    let whole = r#", "scale": 1"#;
    assert_eq!(values(whole, DType::F32, &[three, one, two]), Data::F32(vec![10.0, 11.0, 20.0, 20.0, 30.0, 30.0]));
    assert_eq!(values(whole, DType::F32, &[one, two, three]), Data::F32(vec![10.0, 20.0, 30.0, 11.0, 20.0, 30.0]));
    let bgr = r#", "colour": "bgr""#;
    assert_eq!(values(bgr, DType::U8, &[one, two, three]), Data::U8(vec![30, 20, 10, 30, 20, 11]));
    assert_eq!(values(bgr, DType::U8, &[three, one, two]), Data::U8(vec![30, 30, 20, 20, 10, 11]));
    // 0.299 · 10 + 0.587 · 20 + 0.114 · 30 = 18.15
    let gray = r#", "colour": "gray", "scale": 2, "mean": 6, "deviation": 10"#;
    assert_eq!(values(gray, DType::F32, &[one, two]), Data::F32(vec![3.0, 3.0]));
    assert_eq!(values(r#", "colour": "gray", "size": [1, 2]"#, DType::U8, &[two]), Data::U8(vec![18, 18]));
    assert_eq!(values("", DType::F16, &[three, one, one]).dtype(), DType::F16);
}

#[test]
fn settings_that_do_not_fit_say_what_to_change() {
    let (three, open, size) = (Some(3), None, Some(224));
    let check = |settings: &str, dtype, row: &[Option<usize>], problem: &str| {
        let error = stage(settings, dtype, row).err().unwrap().to_string();
        assert!(error.contains(problem), "{settings}: {error}");
    };
    check("", DType::F32, &[three, open, open], "say height and width");
    check(r#", "size": [8, 8]"#, DType::F32, &[three, size, size], "the model declares a different one");
    check("", DType::F32, &[open, size, size], "say \"channels-first\" or \"channels-last\"");
    check(r#", "colour": "gray""#, DType::F32, &[three, size, size], "or its channels do not match colour");
    check(
        r#", "layout": "channels-last""#,
        DType::F32,
        &[three, size, size],
        "number of channels of the model's input",
    );
    check(r#", "mean": [1, 2]"#, DType::F32, &[three, size, size], "mean: there are 2 values, but 3 channels");
    check(r#", "deviation": 0"#, DType::F32, &[three, size, size], "deviation not 0");
    check(r#", "scale": 2"#, DType::U8, &[three, size, size], "the values are not changed");
    check("", DType::I64, &[three, size, size], "images are float32, float16 or uint8");
    check(r#", "shortest": 256"#, DType::F32, &[three, size, size], "shortest: only applies to resize = \"crop\"");
    check(r#", "resize": "crop", "shortest": 100"#, DType::F32, &[three, size, size], "fewer than the 224");
    check(r#", "fill": 1"#, DType::F32, &[three, size, size], "fill: only applies to resize = \"fit\" or \"pad\"");
    check(r#", "size": [8, 8], "colour": "gray""#, DType::F32, &[Some(63)], "does not match the number of elements");
}

#[test]
fn ways_of_resizing_that_do_not_fit_say_what_to_change() {
    let (three, open, size) = (Some(3), None, Some(224));
    let check = |settings: &str, dtype, row: &[Option<usize>], problem: &str| {
        let error = stage(&format!(", {settings}"), dtype, row).err().unwrap().to_string();
        assert!(error.contains(problem), "{settings}: {error}");
    };
    let fixed = |settings: &str, problem: &str| check(settings, DType::F32, &[three, size, size], problem);
    fixed(r#""anchor": "top-left""#, "anchor: only applies to resize = \"crop\" or \"fit\" or \"pad\"");
    fixed(r#""resize": "pad", "fill_scaled": 0"#, "fill_scaled: only applies to resize = \"fit\"");
    fixed(r#""resize": "fit", "fill_scaled": 0, "fill": 0"#, "fill, fill_scaled: set one of them");
    fixed(r#""resize": "crop", "shortest": 256, "stretch_to": [256, 256]"#, "shortest, stretch_to: set one of them");
    fixed(r#""resize": "crop", "stretch_to": [256, 223]"#, "stretch_to: [256, 223] is less than the [224, 224]");
    fixed(r#""resize": "crop", "stretch_to": [65536, 65536]"#, "stretch_to: at most 67,108,864 pixels");
    fixed(r#""filter": "area""#, "expected \"bilinear\", \"bicubic\", \"lanczos\", \"nearest\", \"opencv-linear\" or");
    fixed(r#""size": {"max_side": 224}"#, "the model declares a different one");
    fixed(r#""size": {"height": 224, "max_width": 300}"#, "the model declares a different one");
    fixed(
        r#""size": {"height": 224, "max_side": 300}"#,
        "expected height and width, as in [224, 224], or a table with",
    );
    let resize = r#""resize": "fit", "fill_scaled": 0"#;
    check(resize, DType::U8, &[three, size, size], "the model takes uint8, so values are not scaled; set fill");
    let any_size = |settings: &str, problem: &str| check(settings, DType::F32, &[three, open, open], problem);
    any_size(r#""resize": "crop", "size": {"max_side": 224}"#, "\"crop\" needs one size for all images");
    any_size(r#""size": {"max_side": 225, "multiple": 32}"#, "must be a multiple of the number in multiple");
    check(r#""layout": "channels-last", "size": {"max_side": 224}"#, DType::F32, &[open], "a row that is one list");
}

/// Returns the middle of what is bright in the first channel of a row, across and down.
fn middle_of_brightness(row: &Tensor) -> [f64; 2] {
    let (height, width) = (row.shape()[2], row.shape()[3]);
    let values = &row.values::<f32>().unwrap()[..height * width];
    let sum: f64 = values.iter().map(|value| f64::from(*value)).sum();
    let place = |place: fn(usize, usize) -> usize| {
        let places = values.iter().enumerate();
        places.map(|(index, value)| (place(index, width) as f64 + 0.5) * f64::from(*value)).sum::<f64>() / sum
    };
    [place(|index, width| index % width), place(|index, width| index / width)]
}

/// The middle of a white rectangle is found in the model's input, and converted back to the place where it was.
#[test]
fn what_is_found_in_a_row_is_where_it_was_in_the_image() {
    for size in [[90, 60], [60, 90], [301, 202], [37, 37]] {
        let [width, height] = size;
        let within = |place: u32, length: u32| (length * 2 / 5..length * 3 / 5).contains(&place);
        let file = png(width, height, |x, y| if within(x, width) && within(y, height) { [255; 3] } else { [0; 3] });
        for how in [
            r#""size": [48, 64]"#,
            r#""size": [24, 24], "resize": "crop", "shortest": 40"#,
            r#""size": [38, 38], "resize": "crop", "shortest": 40, "anchor": "top-left""#,
            r#""size": [24, 24], "resize": "crop", "stretch_to": [30, 40]"#,
            r#""size": [64, 48], "resize": "fit""#,
            r#""size": [64, 48], "resize": "fit", "anchor": "top-left""#,
            r#""size": [48, 80], "resize": "fit", "anchor": "top-left", "fill_scaled": 0"#,
            r#""size": [64, 48], "resize": "pad""#,
            r#""size": [64, 48], "resize": "pad", "anchor": "top-left""#,
            r#""size": {"max_side": 64, "multiple": 16}"#,
            r#""size": {"max_side": 128, "min_side": 80, "multiple": 32}, "resize": "fit""#,
            r#""size": {"max_side": 96, "multiple": 32}, "resize": "fit", "anchor": "top-left""#,
            r#""size": {"height": 32, "min_width": 60, "max_width": 60}, "resize": "fit", "anchor": "top-left""#,
            r#""size": {"height": 32, "max_width": 40}, "resize": "fit""#,
            r#""size": {"height": 32, "max_width": 40}"#,
        ] {
            for filter in ["bilinear", "opencv-linear"] {
                let settings = format!(r#", {how}, "filter": "{filter}""#);
                let stage = stage(&settings, DType::F32, &[Some(3), None, None]).unwrap();
                let prepared = stage.transform_raw("image/png", &file, Deadline::never()).unwrap();
                let Origin::Images(placements) = &prepared.origin else { panic!() };
                let found = placements[0].to_original(middle_of_brightness(prepared.inputs.get("x").unwrap()));
                for axis in 0..2 {
                    let middle = size[axis] * 2 / 5 + size[axis] * 3 / 5;
                    let distance = (found[axis] - f64::from(middle) / 2.0).abs();
                    // Half a pixel of the row; without antialiasing, an edge falls on the next one.
                    assert!(distance <= 0.75 / placements[0].scale[axis].min(1.0), "{size:?}, {settings}: {distance}");
                }
            }
        }
    }
}

proptest! {
    /// An image of any size is resized to the model's size, and its visible part is within the original.
    #[test]
    fn every_image_finds_its_place(
        width in 1u32..80, height in 1u32..80, mode in prop::sample::select(vec!["stretch", "crop", "fit", "pad"]),
    ) {
        let settings = format!(r#", "resize": "{mode}""#);
        let stage = stage(&settings, DType::U8, &[Some(3), Some(12), Some(16)]).unwrap();
        let prepared = stage.transform_raw("image/png", &png(width, height, |x, y| [x as u8, y as u8, 9]), Deadline::never()).unwrap();
        prop_assert_eq!(prepared.inputs.get("x").unwrap().shape(), &[1, 3, 12, 16]);
        let Origin::Images(placements) = &prepared.origin else { panic!() };
        let [left, top] = placements[0].to_original([0.0, 0.0]);
        let [right, bottom] = placements[0].to_original([16.0, 12.0]);
        prop_assert!(left >= 0.0 && top >= 0.0 && right <= f64::from(width) && bottom <= f64::from(height));
        prop_assert!(left < right && top < bottom);
        if mode != "crop" {
            let is_all = [right - left - f64::from(width), bottom - top - f64::from(height)];
            prop_assert!(is_all.iter().all(|difference| difference.abs() < 1e-9), "{:?}", is_all);
        }
    }
}
