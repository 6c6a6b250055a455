//! Tests of `independence.rs`.

use super::*;
use crate::tensor::Data;

/// A model as a function from the rows of a run, of one number each, to their answers.
type Model = fn(&[f32]) -> Vec<f32>;

fn row(values: &[f32]) -> Tensors {
    let tensor = Tensor::new(vec![1, values.len()], Data::F32(values.to_vec())).unwrap();
    [("x".into(), tensor)].into_iter().collect()
}

/// Compares rows of one number each, for a model that is this function.
fn check(model: impl Fn(&[f32]) -> Vec<f32>) -> Independence {
    let rows = [row(&[0.1]), row(&[-1.0]), row(&[10.0])];
    let mut run = |inputs: &Tensors| {
        let y = model(inputs.at(0).unwrap().values::<f32>().unwrap());
        Ok([("y".into(), Tensor::new(vec![y.len()], Data::F32(y)).unwrap())].into_iter().collect())
    };
    let comparison = compare(&rows, &comparing(&Joining::default()), &mut run).unwrap();
    Independence::of(&[comparison], || "all are alike".to_owned())
}

fn comparing(joining: &Joining) -> Comparing<'_> {
    Comparing { joining, precision: Precision::OfTheType, answered: None, max_rows: 32, max_elements: None }
}

#[test]
fn what_other_rows_change_is_found() {
    let max = |x: &[f32]| x.iter().copied().fold(f32::MIN, f32::max);
    let dependent: [Model; 10] = [
        |x| {
            x.iter()
                .scan(0.0, |sum, x| {
                    *sum += x;
                    Some(*sum)
                })
                .collect()
        },
        |x| {
            let mut x = x.to_vec();
            x.sort_unstable_by(f32::total_cmp);
            x
        },
        |x| x.iter().map(|v| v / x.len() as f32).collect(),
        |x| x.iter().enumerate().map(|(place, v)| v + 0.1 * place as f32).collect(),
        // A dependence only in runs of more than four rows, like a mixture of experts at its capacity.
        |x| x.iter().map(|v| if x.len() > 4 { v / x[0] } else { *v }).collect(),
        // An influence that is tiny beside the numbers that it is added to.
        |x| x.iter().map(|v| 2000.0 + v + 1e-3 * x.iter().copied().fold(f32::MIN, f32::max)).collect(),
        // The answer to a row alone is zero.
        |x| x.iter().map(|v| v - x.iter().sum::<f32>() / x.len() as f32).collect(),
        // An influence that is small beside the answer to another row.
        |x| x.iter().map(|v| v.exp() + 0.01 * x[0]).collect(),
        // An influence that is small beside the numbers, but large beside the differences between rows.
        |x| x.iter().map(|v| 1000.0 + 0.1 * (v - x.iter().sum::<f32>() / x.len() as f32)).collect(),
        |x| vec![f32::NAN; x.len()].iter().zip(x).map(|(nan, v)| if x.len() > 1 { *nan } else { *v }).collect(),
    ];
    for (index, model) in dependent.into_iter().enumerate() {
        assert!(matches!(check(model), Independence::Dependent(Dependence { cause: Cause::OtherRows, .. })), "{index}");
    }
    assert!(matches!(check(|x| x.iter().map(|v| v / max(x)).collect()), Independence::Dependent(_)));
}

/// A million in the first column does not hide a dependence in the second.
#[test]
fn a_small_number_beside_a_large_one_counts() {
    let rows = [row(&[0.1]), row(&[-1.0]), row(&[10.0])];
    let mut run = |inputs: &Tensors| {
        let x = inputs.at(0).unwrap().values::<f32>().unwrap();
        let mean = x.iter().sum::<f32>() / x.len() as f32;
        let y = x.iter().flat_map(|v| [1e6 * v, v - mean]).collect();
        Ok([("y".into(), Tensor::new(vec![x.len(), 2], Data::F32(y)).unwrap())].into_iter().collect())
    };
    let comparison = compare(&rows, &comparing(&Joining::default()), &mut run).unwrap();
    assert_eq!(comparison.dependence.map(|dependence| dependence.cause), Some(Cause::OtherRows));
}

#[test]
fn what_differs_by_rounding_is_independent() {
    let shifted = |x: &[f32]| x.iter().map(|v| v * (1.0 + 1e-7 * x.len() as f32)).collect();
    let Independence::Independent { difference } = check(shifted) else { panic!("not independent") };
    assert!(difference > 1e-7 && difference < 1e-5, "{difference}");
}

/// An output that passes an id through is not evidence about another output, such as a risk. An output that is not part
/// of answers does not matter.
#[test]
fn every_output_of_an_answer_has_to_say_something() {
    let rows = [row(&[0.1]), row(&[-1.0]), row(&[10.0])];
    let mut run = |inputs: &Tensors| {
        let x = inputs.at(0).unwrap().values::<f32>().unwrap();
        let of = |y: Vec<f32>| Tensor::new(vec![y.len()], Data::F32(y)).unwrap();
        Ok([("id".into(), of(x.to_vec())), ("risk".into(), of(vec![0.0; x.len()]))].into_iter().collect())
    };
    let (joining, id) = (Joining::default(), ["id".into()]);
    for (answered, is_known) in [(None, false), (Some(&id[..]), true)] {
        let comparison = compare(&rows, &Comparing { answered, ..comparing(&joining) }, &mut run).unwrap();
        assert_eq!(are_conclusive(&[comparison]), is_known);
    }
}

#[test]
fn what_tells_nothing_is_unknown() {
    assert!(matches!(check(|x| vec![1.0; x.len()]), Independence::Unknown { .. }));
    // An output without one row per input row is not an answer.
    assert!(matches!(check(|x| x[..1].to_vec()), Independence::Unknown { .. }));
    assert!(matches!(check(|x| vec![f32::NAN; x.len()]), Independence::Unknown { .. }));
}

#[test]
fn what_is_made_by_chance_is_said_to_be() {
    let calls = std::cell::Cell::new(0.0);
    let chance = |x: &[f32]| {
        calls.set(calls.get() + 0.1);
        x.iter().map(|v| v + calls.get()).collect()
    };
    assert!(matches!(check(chance), Independence::Dependent(Dependence { cause: Cause::Nondeterminism, .. })));
}

/// Two models of texts: a mean over all tokens, and a mean that ignores padding of 0.
#[test]
fn what_filling_up_changes_is_found() {
    let joining = Joining::new(&crate::tensor::Signature::default(), Some(crate::tensor::Padding(vec![0])));
    let rows = [row(&[1.0; 7]), row(&[2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]), row(&[5.0; 8])];
    for (is_masked, is_found) in [(true, false), (false, true)] {
        let mut run = |inputs: &Tensors| {
            let x = inputs.at(0).unwrap();
            let mean = |row: &[f32]| {
                let count = row.iter().filter(|v| !is_masked || **v != 0.0).count();
                row.iter().sum::<f32>() / count as f32
            };
            let y: Vec<f32> = x.values::<f32>().unwrap().chunks(x.row_len()).map(mean).collect();
            Ok([("y".into(), Tensor::new(vec![y.len()], Data::F32(y)).unwrap())].into_iter().collect())
        };
        let comparison = compare(&rows, &comparing(&joining), &mut run).unwrap();
        assert_eq!(comparison.dependence.is_some(), is_found);
    }
}

/// Returns the numbers of rows in the runs of a comparison.
fn sizes_of_runs(max_elements: Option<usize>, fits: impl Fn(usize) -> bool) -> Vec<usize> {
    let rows = [row(&[0.1, 0.2]), row(&[-1.0, 1.0]), row(&[10.0, 20.0])];
    let mut sizes = Vec::new();
    let mut run = |inputs: &Tensors| {
        sizes.push(inputs.rows());
        match fits(inputs.rows()) {
            true => Ok(inputs.clone()),
            false => Err(Error::ModelFailed { detail: "std::bad_alloc".to_owned() }),
        }
    };
    let (joining, max_elements) = (Joining::default(), max_elements.and_then(NonZeroUsize::new));
    compare(&rows, &Comparing { max_elements, ..comparing(&joining) }, &mut run).unwrap();
    sizes
}

#[test]
fn the_largest_compared_run_is_within_the_limits_of_shared_runs() {
    assert_eq!(sizes_of_runs(None, |_| true).last(), Some(&32));
    assert_eq!(sizes_of_runs(Some(20), |_| true).last(), Some(&10));
    // A run that does not fit into memory does not end the comparison.
    assert_eq!(sizes_of_runs(None, |rows| rows <= 10)[8..], [32, 16, 8]);
}
