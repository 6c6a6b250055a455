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
    check(r#", "shortest": 256"#, DType::F32, &[three, size, size], "only applies to resize = \"crop\"");
    check(r#", "resize": "crop", "shortest": 100"#, DType::F32, &[three, size, size], "fewer than the 224");
    check(r#", "fill": 1"#, DType::F32, &[three, size, size], "only applies to resize = \"fit\"");
    check(r#", "size": [8, 8], "colour": "gray""#, DType::F32, &[Some(63)], "does not match the number of elements");
}

proptest! {
    /// An image of any size is resized to the model's size, and its visible part is within the original.
    #[test]
    fn every_image_finds_its_place(
        width in 1u32..80, height in 1u32..80, mode in prop::sample::select(vec!["stretch", "crop", "fit"]),
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
