//! Fits the projection of a baseline to a sample of its rows.

use std::hash::{BuildHasher, Hasher};

use foldhash::quality::FixedState;
use nalgebra::{DMatrix, SymmetricEigen};

use super::projection::{MAX_INPUTS, MAX_WEIGHTS, ProjectedInput, Projection};
use super::quantile_edges::quantile;

/// Share of the variance that the components explain, if there are not too many weights. Of 0.5 to 0.95, this share
/// found a broken correlation most often on the data sets of docs/benchmarks.md.
const EXPLAINED: f64 = 0.9;
/// Quantiles at which numbers are cut off.
const CUT_OFF: [f64; 2] = [0.01, 0.99];
/// Minimum number of rows that a projection is fitted to, in total and for each input.
const MIN_ROWS: usize = 50;
const MIN_ROWS_PER_INPUT: usize = 2;
/// Errors, for each number, that nearly all rows have at most, and that are taken for noise of the digits of numbers.
const MIN_ERROR: f64 = 0.01;
/// Maximum number of iterations of the search for eigenvectors. A few for each number are usual.
const MAX_ITERATIONS: usize = 100_000;
/// Maximum number of products of two numbers, which bounds the time to some seconds.
const MAX_PRODUCTS: usize = 4_000_000_000;
/// Maximum number of rows that are kept.
const MAX_ROWS: usize = 20_000;
/// Seed of the choice of rows. The same rows are chosen every time.
const SEED: u64 = 0x9ca;

/// A random sample of rows of numbers.
#[derive(Debug)]
pub(super) struct VectorSample {
    width: usize,
    /// Maximum number of rows; 0 if rows are too wide or too narrow for a projection.
    capacity: usize,
    seen: usize,
    rows: Vec<Vec<f32>>,
    random: fastrand::Rng,
}

/// A projection, and the reconstruction errors of rows that it was not fitted to.
#[derive(Debug)]
pub(super) struct Fitted {
    pub(super) projection: Projection,
    pub(super) errors: Vec<f32>,
}

impl VectorSample {
    /// Creates an empty sample of rows with this number of numbers.
    pub(super) fn new(width: usize) -> VectorSample {
        let capacity = match width {
            2..=MAX_INPUTS => MAX_ROWS.min(MAX_PRODUCTS / (width * width)),
            _ => 0,
        };
        VectorSample { width, capacity, seen: 0, rows: Vec::new(), random: fastrand::Rng::with_seed(SEED) }
    }

    /// Adds a row. Each of the rows so far is in the sample with the same probability (Vitter, ACM TOMS 11, 1985, R).
    pub(super) fn add(&mut self, row: impl Iterator<Item = f32>) {
        self.seen += 1;
        if self.rows.len() < self.capacity {
            self.rows.push(self.filled_up(row));
        } else if self.capacity > 0 {
            let place = self.random.usize(0..self.seen);
            if place < self.rows.len() {
                self.rows[place] = self.filled_up(row);
            }
        }
    }

    /// Returns the numbers of a row. A short row has missing numbers.
    fn filled_up(&self, row: impl Iterator<Item = f32>) -> Vec<f32> {
        row.chain(std::iter::repeat(f32::NAN)).take(self.width).collect()
    }

    /// Fits a projection to half of the rows, and returns it with the errors of the others: those of the rows that it was
    /// fitted to would be too small. `None` if there are too few rows, too few numbers that vary, or if the numbers depend
    /// on each other so strictly that the errors are noise of their digits.
    pub(super) fn fit(&self, name: impl Fn(usize) -> String) -> Option<Fitted> {
        let (fitted, others): (Vec<&[f32]>, Vec<&[f32]>) =
            self.rows.iter().map(Vec::as_slice).partition(|row| is_fitted(row));
        self.fit_to(&fitted, &others, name)
    }

    fn fit_to(&self, fitted: &[&[f32]], others: &[&[f32]], name: impl Fn(usize) -> String) -> Option<Fitted> {
        if fitted.len() < MIN_ROWS.max(MIN_ROWS_PER_INPUT * self.width) {
            return None;
        }
        let inputs: Vec<Option<ProjectedInput>> =
            (0..self.width).map(|column| scaled(name(column), fitted.iter().map(|row| row[column]))).collect();
        let columns: Vec<usize> = (0..self.width).filter(|column| inputs[*column].is_some()).collect();
        let inputs: Vec<ProjectedInput> = inputs.into_iter().flatten().collect();
        if inputs.len() < 2 {
            return None;
        }
        let (components, explained) = principal_components(&standardised(fitted, &columns, &inputs))?;
        let projection = Projection { inputs, components, explained };
        let mut scratch = Vec::new();
        let mut error = |row: &[f32]| projection.error(columns.iter().map(|column| row[*column]), &mut scratch);
        let errors: Vec<f32> = others.iter().map(|row| error(row)).collect();
        let mut sorted: Vec<f64> =
            errors.iter().filter(|error| error.is_finite()).map(|error| f64::from(*error)).collect();
        sorted.sort_by(f64::total_cmp);
        let large = quantile(&sorted, CUT_OFF[1])?;
        (large > MIN_ERROR * (columns.len() as f64).sqrt()).then_some(Fitted { projection, errors })
    }
}

/// Returns true if a projection is fitted to this row. It depends on the content of the row only: its position may have a
/// meaning, and equal rows must not be in both halves.
fn is_fitted(row: &[f32]) -> bool {
    let mut hasher = FixedState::with_seed(SEED).build_hasher();
    row.iter().for_each(|number| hasher.write_u32(number.to_bits()));
    hasher.finish().count_ones().is_multiple_of(2)
}

/// Returns the scale of a number; `None` if half of its values are missing, or if it hardly varies.
fn scaled(name: String, values: impl ExactSizeIterator<Item = f32>) -> Option<ProjectedInput> {
    let rows = values.len();
    let mut sorted: Vec<f64> = values.filter(|value| value.is_finite()).map(f64::from).collect();
    sorted.sort_by(f64::total_cmp);
    let [min, max] = CUT_OFF.map(|share| quantile(&sorted, share));
    let (min, max) = (min?, max?);
    if 2 * sorted.len() <= rows || min == max {
        return None;
    }
    let count = sorted.len() as f64;
    let cut_off = || sorted.iter().map(|value| value.clamp(min, max));
    let mean = cut_off().sum::<f64>() / count;
    let deviation = (cut_off().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt();
    let [min, max, mean, deviation] = [min, max, mean, deviation].map(|number| number as f32);
    (deviation.is_normal() && mean.is_finite()).then_some(ProjectedInput { name, min, max, mean, deviation })
}

/// Returns the rows in standard deviations from the means; 0 where a number is missing.
fn standardised(rows: &[&[f32]], columns: &[usize], inputs: &[ProjectedInput]) -> DMatrix<f64> {
    DMatrix::from_fn(rows.len(), columns.len(), |row, column| {
        let (value, input) = (rows[row][columns[column]], &inputs[column]);
        let value = if value.is_nan() { input.mean } else { value.clamp(input.min, input.max) };
        (f64::from(value) - f64::from(input.mean)) / f64::from(input.deviation)
    })
}

/// Returns the leading eigenvectors of the correlations, and the share of the variance that they explain. At least one
/// eigenvector is left out, because otherwise every error would be 0. `None` if they are not found.
fn principal_components(standardised: &DMatrix<f64>) -> Option<(Vec<Vec<f32>>, f64)> {
    let inputs = standardised.ncols();
    let products = standardised.tr_mul(standardised);
    if products.iter().any(|product| !product.is_finite()) {
        return None;
    }
    let found = SymmetricEigen::try_new(products, f64::EPSILON, MAX_ITERATIONS);
    let SymmetricEigen { eigenvectors, eigenvalues } = found?;
    let mut order: Vec<usize> = (0..inputs).collect();
    order.sort_by(|one, other| eigenvalues[*other].total_cmp(&eigenvalues[*one]));
    let total = eigenvalues.sum();
    let (mut components, mut explained) = (Vec::new(), 0.0);
    for index in order.into_iter().take((inputs - 1).min(MAX_WEIGHTS / inputs)) {
        components.push(eigenvectors.column(index).iter().map(|weight| *weight as f32).collect());
        explained += eigenvalues[index] / total;
        if explained >= EXPLAINED {
            break;
        }
    }
    Some((components, explained))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(rows: usize) -> VectorSample {
        let mut sample = VectorSample::new(4);
        for row in 0..rows {
            let a = (row * 7) % 11;
            sample.add([a, 2 * a + row % 3, row * row % 13, 5].into_iter().map(|number| number as f32));
        }
        sample
    }

    /// A difference of two squares in single precision is right to four digits here. The expected numbers are from numpy 2.4 (`linalg.eigh`) and scikit-learn 1.9 (`PCA`), which agree.
    #[test]
    fn errors_are_those_of_other_tools() {
        let sample = sample(240);
        let half = |first| sample.rows.iter().skip(first).step_by(2).map(Vec::as_slice).collect::<Vec<_>>();
        let Fitted { projection, errors } = sample.fit_to(&half(0), &half(1), |column| column.to_string()).unwrap();
        let names: Vec<&str> = projection.inputs.iter().map(|input| &*input.name).collect();
        assert_eq!((names, projection.components.len()), (vec!["0", "1", "2"], 2), "a constant is left out");
        assert!((projection.explained - 0.997_256_57).abs() < 1e-6, "{}", projection.explained);
        let known = [
            ([0.0, 0.0, 0.0], 0.100_999_76),
            ([10.0, 21.0, 12.0], 0.010_011_6),
            ([10.0, 0.0, 3.0], 2.336_808_7),
            ([0.0, 21.0, 3.0], 2.227_015),
            ([99.0, -99.0, 6.0], 2.337_417_6),
        ];
        for (row, expected) in known {
            let error = projection.error(row.into_iter(), &mut Vec::new());
            assert!((error - expected).abs() < 1e-4, "{row:?}: {error} instead of {expected}");
        }
        let mean = errors.iter().sum::<f32>() / errors.len() as f32;
        assert!(errors.len() == 120 && (mean - 0.075_621_2).abs() < 1e-5, "{mean}");
        assert_eq!(projection.problem(), None);
    }

    #[test]
    fn what_cannot_be_projected_has_no_projection() {
        let fit = |sample: VectorSample| sample.fit(|column| column.to_string()).map(|fitted| fitted.projection);
        assert_eq!(fit(sample(60)), None, "too few rows");
        let of = |width: usize, value: fn(usize, usize) -> f32| {
            let mut sample = VectorSample::new(width);
            (0..200).for_each(|row| sample.add((0..width).map(|column| value(row, column))));
            fit(sample)
        };
        assert_eq!(of(1, |row, _| row as f32), None, "one number");
        assert_eq!(of(3, |row, column| if column == 0 { row as f32 } else { 1.0 }), None, "one number that varies");
        assert_eq!(of(2, |row, column| if column == 0 && row % 3 > 0 { f32::NAN } else { row as f32 }), None);
        assert_eq!(of(MAX_INPUTS + 1, |row, _| row as f32), None, "too many numbers");
        assert_eq!(of(2, |row, _| if row % 2 == 0 { f32::INFINITY } else { f32::NAN }), None);
        assert!(
            of(2, |row, column| (row * (column + 1) % 7) as f32 * 1e38).is_none_or(|found| found.problem().is_none())
        );
    }

    #[test]
    fn rows_that_other_projections_would_break_on_have_none_or_a_usable_one() {
        let fit = |row: &dyn Fn(f32) -> Vec<f32>| {
            let mut sample = VectorSample::new(3);
            (0..400u16).for_each(|index| sample.add(row(f32::from(index)).into_iter()));
            sample.fit(|column| column.to_string())
        };
        // The same temperature in two units: the errors are noise.
        assert!(fit(&|x| vec![x, 1.8 * x + 32.0, -x]).is_none());
        // A short row, as of an embedding of another width, has missing numbers.
        let short = fit(&|x| if x % 5.0 == 0.0 { vec![x] } else { vec![x, x * x % 7.0, x % 11.0] });
        assert!(short.is_some_and(|fitted| fitted.errors.iter().all(|error| error.is_finite())));
        let huge = fit(&|x| vec![if x % 2.0 == 0.0 { f32::MAX } else { f32::MIN }, x % 7.0, x % 11.0]);
        assert!(huge.is_none_or(|fitted| fitted.projection.problem().is_none()));
    }

    /// Every other row is of another kind, and each row occurs twice.
    #[test]
    fn the_position_of_a_row_and_copies_of_it_do_not_matter() {
        let mut random = fastrand::Rng::with_seed(5);
        let mut sample = VectorSample::new(2);
        for row in 0..2_000 {
            let (one, noise) = (random.f32(), 0.1 * random.f32());
            let row = if row % 2 == 0 { [one, one + noise] } else { [one, 1.0 - one + noise] };
            (0..2).for_each(|_| sample.add(row.into_iter()));
        }
        let errors = sample.fit(|column| column.to_string()).unwrap().errors;
        let (fitted, others): (Vec<&Vec<f32>>, Vec<&Vec<f32>>) = sample.rows.iter().partition(|row| is_fitted(row));
        assert!(others.len() == errors.len() && (1_600..2_400).contains(&errors.len()), "{}", errors.len());
        assert!(others.iter().all(|row| !fitted.contains(row)));
    }

    #[test]
    fn all_rows_have_the_same_chance() {
        let mut sample = VectorSample { capacity: 100, ..VectorSample::new(2) };
        (0..10_000).for_each(|row| sample.add([row as f32, 0.0].into_iter()));
        let late = sample.rows.iter().filter(|row| row[0] >= 5_000.0).count();
        assert!(sample.rows.len() == 100 && (30..70).contains(&late), "{late}");
    }
}
