//! Weights, gradients and everything else that has one number per weight, in host memory.

use crate::domain::network::{NetworkError, NetworkSpec, WeightSpec};

/// Tensors in the order of [`NetworkSpec::weights`], under `PyTorch`'s names and in its layouts: a
/// linear weight is `[out, in]`, a convolution's `[out, in, kernel, kernel]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters {
    pub tensors: Vec<Parameter>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// The layer and the role, such as `3.weight`.
    pub name: String,
    pub shape: Vec<usize>,
    /// Row-major, as many as `shape` says.
    pub values: Vec<f32>,
}

impl Parameters {
    /// One tensor per weight and bias of `spec`, filled by `fill(name, shape)`.
    ///
    /// # Errors
    /// When the spec's layers do not fit each other.
    pub fn of(
        spec: &NetworkSpec,
        mut fill: impl FnMut(&str, &[usize]) -> Vec<f32>,
    ) -> Result<Self, NetworkError> {
        let tensors = spec.weights()?.into_iter().map(|WeightSpec { name, shape }| {
            let values = fill(&name, &shape);
            Parameter { name, shape, values }
        });
        Ok(Self { tensors: tensors.collect() })
    }

    pub fn get(&self, name: &str) -> Option<&Parameter> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// `self *= factor`.
    pub fn scale(&mut self, factor: f32) {
        let values = self.tensors.iter_mut().flat_map(|tensor| &mut tensor.values);
        values.for_each(|value| *value *= factor);
    }

    /// `self += factor * other`, elementwise.
    pub fn add_scaled(&mut self, factor: f32, other: &Self) {
        self.update(other, |own, other| own + factor * other);
    }

    /// `self += factor * other * other`, elementwise.
    pub fn add_scaled_square(&mut self, factor: f32, other: &Self) {
        self.update(other, |own, other| own + factor * other * other);
    }

    /// Replaces each number by `new(own, other's)`.
    ///
    /// # Panics
    /// When the two were not made for the same network.
    pub fn update(&mut self, other: &Self, new: impl Fn(f32, f32) -> f32) {
        assert_eq!(self.tensors.len(), other.tensors.len(), "parameters of the same network");
        for (own, other) in self.tensors.iter_mut().zip(&other.tensors) {
            assert_eq!(own.shape, other.shape, "parameters of the same network");
            for (own, other) in own.values.iter_mut().zip(&other.values) {
                *own = new(*own, *other);
            }
        }
    }

    /// The sum of products over all numbers.
    pub fn dot(&self, other: &Self) -> f64 {
        self.tensors.iter().zip(&other.tensors).map(|(a, b)| dot(&a.values, &b.values)).sum()
    }

    /// Whether no number is NaN or infinite.
    pub fn is_finite(&self) -> bool {
        self.tensors.iter().all(|tensor| tensor.values.iter().all(|value| value.is_finite()))
    }

    /// Euclidean length over all numbers.
    pub fn norm(&self) -> f64 {
        self.dot(self).sqrt()
    }
}

impl Parameter {
    /// Euclidean length.
    pub fn norm(&self) -> f64 {
        dot(&self.values, &self.values).sqrt()
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
