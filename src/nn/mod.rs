//! Networks: from a spec to a Burn module, its weights, predictions, gradients and training.
//!
//! Networks are handed around on a plain device; whatever needs gradients makes itself a copy
//! that records them, and drops it when done.

pub mod adam;
pub mod convex;
pub mod cross_fitting;
pub mod curvature;
pub mod device;
pub mod gradient;
mod layer;
pub mod network;
mod operation;
pub mod order;
pub mod parameters;
pub mod prediction;
pub mod restriction;
pub mod training;
pub mod weights;

#[cfg(test)]
pub(crate) mod fixture;
