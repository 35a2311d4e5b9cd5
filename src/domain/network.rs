//! A network is data: a list of layers over an input shape. `nn` turns it into a Burn module.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A feed-forward network whose every dimension is known. Layers are numbered as in PyTorch's
/// `nn.Sequential`, which also names the weights: `0.weight`, `0.bias`, `3.weight`, ...
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// Shape of one sample: `[features]` or `[channels, height, width]`.
    pub input: Vec<usize>,
    pub layers: Vec<LayerSpec>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LayerSpec {
    Conv2d(Conv2dSpec),
    Relu,
    /// Square window, stride equal to the window; what does not fill a window is dropped.
    MaxPool2d(usize),
    Flatten,
    /// Output features.
    Linear(usize),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Conv2dSpec {
    /// Output channels.
    pub out: usize,
    /// Side of the square kernel.
    pub kernel: usize,
    #[serde(default = "one")]
    pub stride: usize,
    #[serde(default)]
    pub padding: usize,
}

fn one() -> usize {
    1
}

/// What a model asks for: a named preset, or layers of its own. Sizes that only the data knows
/// (the width of one-hot encoded columns, the number of classes) are filled in at training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, try_from = "serde_json::Value")]
#[schema(example = json!({"preset": "mlp", "hidden": [64]}))]
pub enum Architecture {
    Preset(PresetSpec),
    Layers(LayersSpec),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PresetSpec {
    pub preset: Preset,
    /// Widths of the hidden layers; `mlp` only, `[256]` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden: Option<Vec<usize>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// Multinomial logistic regression: one linear layer.
    Logistic,
    /// Linear layers with ReLU between them.
    Mlp,
    /// Two convolutions and three linear layers (LeCun et al. 1998, with ReLU and max pooling);
    /// inputs of at least 12x12.
    Lenet5,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LayersSpec {
    /// Taken from the data when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Vec<usize>>,
    pub layers: Vec<LayerSpec>,
}

impl TryFrom<serde_json::Value> for Architecture {
    type Error = serde_json::Error;

    fn try_from(value: serde_json::Value) -> Result<Self, Self::Error> {
        if value.get("preset").is_some() {
            serde_json::from_value(value).map(Self::Preset)
        } else {
            serde_json::from_value(value).map(Self::Layers)
        }
    }
}

/// A network that cannot be built; names the layer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    #[error("the network has no layers; give at least one, e.g. {{\"linear\": 10}}")]
    NoLayers,
    #[error("the input shape {0:?} must have one or three dimensions, none of them zero")]
    Input(Vec<usize>),
    #[error("the network expects inputs of shape {expected:?}, but the data has {found:?}")]
    InputMismatch { expected: Vec<usize>, found: Vec<usize> },
    #[error("layer {index} ({layer}) {reason}; its input has shape {input:?}")]
    Layer { index: usize, layer: String, reason: String, input: Vec<usize> },
    #[error("the last layer gives shape {found:?}, but the data has {classes} classes")]
    Output { found: Vec<usize>, classes: usize },
    #[error("preset {0} takes no `hidden`; only mlp does")]
    Hidden(String),
    #[error("the network has {found} parameters, more than the {limit} that are served")]
    TooLarge { found: usize, limit: usize },
}

/// Beyond this, one process would not hold the weights and their gradients.
const PARAMETERS_MAX: usize = 200_000_000;

/// Most numbers that a layer may give for one sample; as many as a sample itself may have.
const ACTIVATIONS_MAX: usize = 1 << 24;

impl Architecture {
    /// Fills in what the data knows.
    ///
    /// # Errors
    /// When the layers do not fit each other, the input or the number of classes.
    pub fn resolve(&self, input: &[usize], classes: usize) -> Result<NetworkSpec, NetworkError> {
        let spec = match self {
            Self::Preset(preset) => preset.resolve(input, classes)?,
            Self::Layers(LayersSpec { input: expected, layers }) => {
                if let Some(expected) = expected.as_ref().filter(|shape| *shape != input) {
                    return Err(NetworkError::InputMismatch {
                        expected: expected.clone(),
                        found: input.to_vec(),
                    });
                }
                NetworkSpec { input: input.to_vec(), layers: layers.clone() }
            }
        };
        let output = spec.shapes()?.pop().unwrap_or_default();
        if output == [classes] {
            Ok(spec)
        } else {
            Err(NetworkError::Output { found: output, classes })
        }
    }

    /// See [`NetworkSpec::is_linear`].
    pub fn is_linear(&self) -> bool {
        match self {
            Self::Preset(preset) => preset.preset == Preset::Logistic,
            Self::Layers(spec) => are_linear(&spec.layers),
        }
    }
}

fn are_linear(layers: &[LayerSpec]) -> bool {
    matches!(layers, [LayerSpec::Linear(_)] | [LayerSpec::Flatten, LayerSpec::Linear(_)])
}

impl PresetSpec {
    fn resolve(&self, input: &[usize], classes: usize) -> Result<NetworkSpec, NetworkError> {
        use LayerSpec::{Flatten, Linear, MaxPool2d, Relu};
        if self.hidden.is_some() && self.preset != Preset::Mlp {
            return Err(NetworkError::Hidden(format!("{:?}", self.preset).to_lowercase()));
        }
        let conv = |out| LayerSpec::Conv2d(Conv2dSpec { out, kernel: 5, stride: 1, padding: 0 });
        let mut layers = Vec::new();
        if input.len() > 1 && self.preset != Preset::Lenet5 {
            layers.push(Flatten);
        }
        match self.preset {
            Preset::Logistic => layers.push(Linear(classes)),
            Preset::Mlp => {
                for width in self.hidden.as_deref().unwrap_or(&[256]) {
                    layers.extend([Linear(*width), Relu]);
                }
                layers.push(Linear(classes));
            }
            Preset::Lenet5 => layers.extend([
                conv(6),
                Relu,
                MaxPool2d(2),
                conv(16),
                Relu,
                MaxPool2d(2),
                Flatten,
                Linear(120),
                Relu,
                Linear(84),
                Relu,
                Linear(classes),
            ]),
        }
        Ok(NetworkSpec { input: input.to_vec(), layers })
    }
}

impl NetworkSpec {
    /// Whether the network is one linear layer, at most flattened before, so that its loss is
    /// convex.
    pub fn is_linear(&self) -> bool {
        are_linear(&self.layers)
    }

    /// The shape of one sample before each layer and after the last: `layers.len() + 1` shapes.
    ///
    /// # Errors
    /// When a layer cannot take its input; names the layer.
    pub fn shapes(&self) -> Result<Vec<Vec<usize>>, NetworkError> {
        if self.layers.is_empty() {
            return Err(NetworkError::NoLayers);
        }
        if !matches!(self.input.len(), 1 | 3) || self.input.contains(&0) {
            return Err(NetworkError::Input(self.input.clone()));
        }
        let mut shapes = vec![self.input.clone()];
        let mut parameters = 0_usize;
        for (index, layer) in self.layers.iter().enumerate() {
            let input = &shapes[index];
            let output = layer.output(input).map_err(|reason| NetworkError::Layer {
                index,
                layer: layer.to_string(),
                reason,
                input: input.clone(),
            })?;
            let numbers = output.iter().try_fold(1_usize, |a, b| a.checked_mul(*b));
            if numbers.is_none_or(|numbers| numbers > ACTIVATIONS_MAX) {
                return Err(NetworkError::Layer {
                    index,
                    layer: layer.to_string(),
                    reason: format!("gives more than {ACTIVATIONS_MAX} numbers a sample"),
                    input: input.clone(),
                });
            }
            parameters = parameters.saturating_add(layer.parameters(input));
            shapes.push(output);
        }
        if parameters > PARAMETERS_MAX {
            return Err(NetworkError::TooLarge { found: parameters, limit: PARAMETERS_MAX });
        }
        Ok(shapes)
    }
}

impl LayerSpec {
    fn output(&self, input: &[usize]) -> Result<Vec<usize>, String> {
        match (self, input) {
            (Self::Relu, shape) => Ok(shape.to_vec()),
            (Self::Flatten, shape) => Ok(vec![shape.iter().product()]),
            (Self::Linear(0), _) => Err("must give at least one feature".into()),
            (Self::Linear(out), [_]) => Ok(vec![*out]),
            (Self::Linear(_), _) => Err("takes flat features; put \"flatten\" before it".into()),
            (Self::Conv2d(conv), &[_, height, width]) => {
                let side = |size: usize| conv.output_side(size);
                match (side(height), side(width)) {
                    (Some(height), Some(width)) => Ok(vec![conv.out, height, width]),
                    _ => Err("needs out, kernel and stride of at least 1 and a kernel that \
                              fits its input"
                        .into()),
                }
            }
            (Self::MaxPool2d(window), &[channels, height, width]) => {
                if *window == 0 || *window > height || *window > width {
                    Err("needs a window of at least 1 that fits its input".into())
                } else {
                    Ok(vec![channels, height / window, width / window])
                }
            }
            (Self::Conv2d(_) | Self::MaxPool2d(_), _) => {
                Err("takes images [channels, height, width]".into())
            }
        }
    }

    fn parameters(&self, input: &[usize]) -> usize {
        let fan_in = input.first().copied().unwrap_or(0);
        match self {
            Self::Linear(out) => out.saturating_mul(fan_in.saturating_add(1)),
            Self::Conv2d(conv) => {
                let patch = conv.kernel.saturating_mul(conv.kernel).saturating_mul(fan_in);
                conv.out.saturating_mul(patch.saturating_add(1))
            }
            Self::Relu | Self::MaxPool2d(_) | Self::Flatten => 0,
        }
    }
}

impl Conv2dSpec {
    fn output_side(&self, side: usize) -> Option<usize> {
        if self.out == 0 || self.kernel == 0 {
            return None;
        }
        let padded = self.padding.checked_mul(2)?.checked_add(side)?;
        padded.checked_sub(self.kernel)?.checked_div(self.stride).map(|steps| steps + 1)
    }
}

impl fmt::Display for LayerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conv2d(_) => f.write_str("conv2d"),
            Self::Relu => f.write_str("relu"),
            Self::MaxPool2d(_) => f.write_str("max_pool2d"),
            Self::Flatten => f.write_str("flatten"),
            Self::Linear(_) => f.write_str("linear"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: serde_json::Value) -> Architecture {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn lenet5_has_the_shapes_of_the_published_network() {
        let spec =
            parse(serde_json::json!({"preset": "lenet5"})).resolve(&[3, 32, 32], 10).unwrap();
        let shapes = spec.shapes().unwrap();
        assert_eq!(shapes[1], [6, 28, 28]);
        assert_eq!(shapes[7], [400]);
        assert_eq!(shapes[12], [10]);
    }

    #[test]
    fn a_mismatch_names_the_layer() {
        let network = parse(serde_json::json!({
            "layers": [{"conv2d": {"out": 6, "kernel": 5}}, "relu", {"linear": 10}]
        }));
        let error = network.resolve(&[3, 32, 32], 10).unwrap_err().to_string();
        assert!(error.contains("layer 2 (linear)") && error.contains("flatten"), "{error}");
        let error = network.resolve(&[3, 4, 4], 10).unwrap_err().to_string();
        assert!(error.contains("layer 0 (conv2d)"), "{error}");
    }

    #[test]
    fn layers_that_blow_up_are_refused() {
        let network = parse(serde_json::json!({
            "layers": [{"conv2d": {"out": 1, "kernel": 1, "padding": 4_000_000_000_u64}}, "flatten"]
        }));
        let error = network.resolve(&[3, 32, 32], 10).unwrap_err().to_string();
        assert!(error.contains("layer 0 (conv2d) gives more than"), "{error}");
    }

    #[test]
    fn output_and_input_must_fit_the_data() {
        let network = parse(serde_json::json!({"input": [64], "layers": [{"linear": 10}]}));
        assert!(network.resolve(&[64], 10).is_ok());
        assert!(matches!(network.resolve(&[64], 3), Err(NetworkError::Output { .. })));
        assert!(matches!(network.resolve(&[65], 10), Err(NetworkError::InputMismatch { .. })));
    }

    #[test]
    fn unknown_words_are_refused_with_their_name() {
        let refused = |json| serde_json::from_value::<Architecture>(json).unwrap_err().to_string();
        assert!(refused(serde_json::json!({"preset": "vgg"})).contains("vgg"));
        assert!(refused(serde_json::json!({"layers": ["gelu"]})).contains("gelu"));
        assert!(refused(serde_json::json!({"layers": [], "width": 3})).contains("width"));
    }
}
