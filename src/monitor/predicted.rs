//! A prediction and its true outcome, as feedback joins them.

/// A prediction, read from its id.
#[derive(Debug, Clone, PartialEq)]
pub enum Predicted {
    /// A predicted class: its name, and the confidence in it.
    Class(String, f64),
    /// A predicted number.
    Value(f64),
}

/// The true outcome of a prediction.
#[derive(Debug, Clone, PartialEq)]
pub enum Truth {
    /// The true class.
    Label {
        /// Number of the class.
        class: usize,
        /// Name of the class.
        name: String,
    },
    /// The true number.
    Value(f64),
}
