//! Reconstruction error: how far a row of numbers is from the principal components of the training data.
//!
//! The components are fixed in the baseline. Numbers that no longer go together, as when one column is joined with the
//! rows of others, raise the error, although the distribution of each number is the same.

use serde::{Deserialize, Serialize};

/// Maximum number of inputs of a projection.
pub(super) const MAX_INPUTS: usize = 1_024;
/// Maximum number of weights of a projection, which is the number of multiplications for each row.
pub(super) const MAX_WEIGHTS: usize = 1 << 14;

/// Principal components of several numbers: of features, or of the numbers of an embedding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Projection {
    /// The numbers that are projected, in order.
    pub inputs: Vec<ProjectedInput>,
    /// Components: unit vectors, orthogonal to each other, with one weight for each input.
    pub components: Vec<Vec<f32>>,
    /// Share of the variance of the training data that the components explain, 0 to 1.
    pub explained: f64,
}

/// A number that is projected, and its scale in the training data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectedInput {
    /// Name of the feature, or position in the embedding.
    pub name: String,
    /// The 1 % quantile. Smaller numbers count as this one, so that outliers do not determine the error.
    pub min: f32,
    /// The 99 % quantile. Larger numbers count as this one.
    pub max: f32,
    /// Mean of the numbers between these two.
    pub mean: f32,
    /// Standard deviation of the numbers between these two.
    pub deviation: f32,
}

impl Projection {
    /// Returns the reconstruction error of a row: ‖z − V·Vᵀ·z‖, where z are the numbers in standard deviations from
    /// their mean, and V has the components as columns (Jolliffe, *Principal Component Analysis*, 2nd ed., 10.1, √Q).
    /// A missing number counts as the mean; if all are missing, the error is NaN. `scratch` is reused between rows.
    ///
    /// ```
    /// use leeway::monitor::{ProjectedInput, Projection};
    /// let input = |name: &str| ProjectedInput { name: name.into(), min: -9.0, max: 9.0, mean: 1.0, deviation: 2.0 };
    /// let half = 0.5f32.sqrt();
    /// let projection =
    ///     Projection { inputs: vec![input("a"), input("b")], components: vec![vec![half, half]], explained: 1.0 };
    /// let error = |a, b| projection.error([a, b].into_iter(), &mut Vec::new());
    /// assert!(error(3.0, 3.0) < 1e-3, "equal numbers are on the component");
    /// assert!((error(3.0, -1.0) - 2f32.sqrt()).abs() < 1e-6, "one standard deviation above and below the mean");
    /// assert!(error(f32::NAN, f32::NAN).is_nan());
    /// ```
    pub fn error(&self, row: impl Iterator<Item = f32>, scratch: &mut Vec<f32>) -> f32 {
        scratch.clear();
        let mut are_missing = true;
        scratch.extend(self.inputs.iter().zip(row).map(|(input, value)| {
            are_missing &= value.is_nan();
            if value.is_nan() { 0.0 } else { (value.clamp(input.min, input.max) - input.mean) / input.deviation }
        }));
        if are_missing {
            return f32::NAN;
        }
        let explained: f32 = self.components.iter().map(|component| dot(component, scratch).powi(2)).sum();
        (dot(scratch, scratch) - explained).max(0.0).sqrt()
    }

    /// Returns the reason why this projection cannot be used; `None` if it can.
    pub(super) fn problem(&self) -> Option<String> {
        let (inputs, weights) = (self.inputs.len(), self.inputs.len() * self.components.len());
        if inputs > MAX_INPUTS || weights > MAX_WEIGHTS {
            return Some(format!(
                "there are {inputs} inputs and {weights} weights, but at most {MAX_INPUTS} and {MAX_WEIGHTS} are allowed"
            ));
        }
        if self.components.is_empty() || self.components.iter().any(|component| component.len() != inputs) {
            return Some(format!("each of the components must have {inputs} weights, one for each input"));
        }
        if self.components.iter().flatten().any(|weight| !weight.is_finite()) {
            return Some("a weight is not a finite number".to_owned());
        }
        let is_usable = |input: &&ProjectedInput| {
            input.min <= input.max && input.mean.is_finite() && input.deviation.is_finite() && input.deviation > 0.0
        };
        let unusable = self.inputs.iter().find(|input| !is_usable(input))?;
        Some(format!("input {:?}: min must not be above max, and deviation must be above 0", unusable.name))
    }
}

/// Returns the scalar product of two vectors. Sixteen sums let the compiler multiply several numbers at a time.
fn dot(one: &[f32], other: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0; LANES];
    let (ones, others) = (one.chunks_exact(LANES), other.chunks_exact(LANES));
    let rest: f32 = ones.remainder().iter().zip(others.remainder()).map(|(one, other)| one * other).sum();
    for (one, other) in ones.zip(others) {
        for lane in 0..LANES {
            sums[lane] += one[lane] * other[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}
