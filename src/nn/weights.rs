//! Weights as safetensors, in `PyTorch`'s names and layouts: a model trained there comes in and
//! goes out as it is.

use burn::tensor::Device;
use safetensors::{Dtype, SafeTensorError, SafeTensors, tensor::TensorView};

use super::network::Network;
use super::parameters::Parameters;
use crate::domain::network::{NetworkError, NetworkSpec};

/// A weights file that is not for the network, or is none at all.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    #[error("cannot read the weights as safetensors")]
    Unreadable(#[source] SafeTensorError),
    #[error("the network cannot be built")]
    Network(#[source] NetworkError),
    #[error("tensor {name:?} is missing")]
    Missing { name: String },
    #[error("tensor {name:?} belongs to no layer of the network")]
    Unexpected { name: String },
    #[error("tensor {name:?} has shape {found:?}, but the network needs {expected:?}")]
    Shape { name: String, expected: Vec<usize>, found: Vec<usize> },
    #[error("tensor {name:?} is of type {found}, but must be F32")]
    Dtype { name: String, found: String },
    #[error("tensor {name:?} holds a NaN or an infinite number")]
    NotFinite { name: String },
}

/// The same network gives the same bytes.
pub fn to_safetensors(network: &Network) -> Vec<u8> {
    network.parameters().to_safetensors()
}

/// A network with the weights that `bytes` hold: exactly one tensor for each weight and bias.
pub fn from_safetensors(
    spec: &NetworkSpec,
    bytes: &[u8],
    device: &Device,
) -> Result<Network, WeightsError> {
    let parameters = Parameters::from_safetensors(spec, bytes)?;
    Network::build(spec, &parameters, device).map_err(WeightsError::Network)
}

impl Parameters {
    pub fn to_safetensors(&self) -> Vec<u8> {
        let bytes: Vec<Vec<u8>> = self
            .tensors
            .iter()
            .map(|tensor| tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect())
            .collect();
        let views = self.tensors.iter().zip(&bytes).map(|(tensor, bytes)| {
            let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytes)
                .expect("as many bytes as the shape says");
            (tensor.name.as_str(), view)
        });
        safetensors::serialize(views, None).expect("views of memory always serialize")
    }

    /// Tensors for the weights and biases of `spec`, no fewer and no more.
    pub fn from_safetensors(spec: &NetworkSpec, bytes: &[u8]) -> Result<Self, WeightsError> {
        let file = SafeTensors::deserialize(bytes).map_err(WeightsError::Unreadable)?;
        let mut parameters = Self::of(spec, |_, _| Vec::new()).map_err(WeightsError::Network)?;
        for tensor in &mut parameters.tensors {
            let name = || tensor.name.clone();
            let view =
                file.tensor(&tensor.name).map_err(|_| WeightsError::Missing { name: name() })?;
            if view.dtype() != Dtype::F32 {
                let found = format!("{:?}", view.dtype());
                return Err(WeightsError::Dtype { name: name(), found });
            }
            if view.shape() != tensor.shape {
                let (expected, found) = (tensor.shape.clone(), view.shape().to_vec());
                return Err(WeightsError::Shape { name: name(), expected, found });
            }
            let (numbers, _) = view.data().as_chunks();
            tensor.values = numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            if !tensor.values.iter().all(|value| value.is_finite()) {
                return Err(WeightsError::NotFinite { name: name() });
            }
        }
        let mut names = file.names();
        names.sort_unstable();
        match names.into_iter().find(|name| parameters.get(name).is_none()) {
            Some(name) => Err(WeightsError::Unexpected { name: name.to_owned() }),
            None => Ok(parameters),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::fixture::{Fixture, devices, lenet, resnet};

    fn broken(change: impl FnOnce(&mut Parameters)) -> String {
        let mut parameters =
            Parameters::from_safetensors(&lenet(), &Fixture::bytes("weights-before")).unwrap();
        change(&mut parameters);
        let bytes = parameters.to_safetensors();
        from_safetensors(&lenet(), &bytes, &Device::flex()).unwrap_err().to_string()
    }

    #[test]
    fn weights_survive_the_round_trip_to_the_bit() {
        let bytes = Fixture::bytes("weights-before");
        for device in devices() {
            let network = from_safetensors(&lenet(), &bytes, &device).unwrap();
            let written = to_safetensors(&network);
            assert_eq!(written, to_safetensors(&network));
            let (ours, theirs) = (
                Parameters::from_safetensors(&lenet(), &written).unwrap(),
                Parameters::from_safetensors(&lenet(), &bytes).unwrap(),
            );
            assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn weights_of_branches_survive_the_round_trip() {
        let network = Network::init(&resnet(), 1, &Device::flex()).unwrap();
        let written = to_safetensors(&network);
        let read = from_safetensors(&resnet(), &written, &Device::flex()).unwrap();
        assert_eq!(read.parameters(), network.parameters());
        let mut parameters = network.parameters();
        parameters.tensors.retain(|tensor| tensor.name != "7.shortcut.1.bias");
        let read = Parameters::from_safetensors(&resnet(), &parameters.to_safetensors());
        let missing = read.unwrap_err().to_string();
        assert!(missing.contains("7.shortcut.1.bias") && missing.contains("missing"), "{missing}");
    }

    #[test]
    fn what_is_wrong_with_a_file_is_named() {
        let missing = broken(|p| drop(p.tensors.remove(3)));
        assert!(missing.contains("3.bias") && missing.contains("missing"), "{missing}");
        let extra = broken(|p| {
            let mut tensor = p.tensors[1].clone();
            tensor.name = "12.bias".into();
            p.tensors.push(tensor);
        });
        assert!(extra.contains("12.bias"), "{extra}");
        let shape = broken(|p| p.tensors[4].shape.reverse());
        assert!(shape.contains("[120, 400]") && shape.contains("[400, 120]"), "{shape}");
        let nan = broken(|p| p.tensors[9].values[2] = f32::NAN);
        assert!(nan.contains("11.bias") && nan.contains("NaN"), "{nan}");
    }

    #[test]
    fn another_number_type_and_garbage_are_refused() {
        let view = TensorView::new(Dtype::F16, vec![6, 3, 5, 5], &[0; 900]).unwrap();
        let bytes = safetensors::serialize([("0.weight", view)], None).unwrap();
        let read = |bytes: &[u8]| Parameters::from_safetensors(&lenet(), bytes).unwrap_err();
        assert!(matches!(read(&bytes), WeightsError::Dtype { .. }));
        assert!(matches!(read(b"not weights at all"), WeightsError::Unreadable(_)));
        let cut = &Fixture::bytes("weights-before")[..1_000];
        assert!(matches!(read(cut), WeightsError::Unreadable(_)));
    }
}
