//! A network is data: a list of layers over an input shape. `nn` turns it into a Burn module.

mod preset;
mod shapes;

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use preset::{Preset, PresetSpec};
pub use shapes::{WeightSpec, shapes};

/// A feed-forward network whose every dimension is known. Layers are numbered as in PyTorch's
/// `nn.Sequential`, which also names the weights: `0.weight`, `0.bias`, `3.weight`, ... Those of a
/// `residual` layer are numbered anew in its two branches: `4.body.0.weight`,
/// `4.shortcut.0.weight`, ...
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
    /// Number of groups (Wu & He 2018, arXiv 1803.08494). Each sample's channels are divided into
    /// that many groups of neighbours, and each group is brought to mean 0 and variance 1; then
    /// each channel has a weight and a bias. To the variance 1e-5 is added, as in PyTorch.
    GroupNorm(usize),
    /// Square window, stride equal to the window; what does not fill a window is dropped.
    MaxPool2d(usize),
    /// The mean of each channel: `[channels, 1, 1]`, as PyTorch's `AdaptiveAvgPool2d(1)`.
    GlobalAvgPool2d,
    Residual(ResidualSpec),
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

/// What `body` and `shortcut` make of the same input, added up (He et al. 2015, arXiv 1512.03385).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResidualSpec {
    #[schema(no_recursion)]
    pub body: Vec<LayerSpec>,
    /// The input itself when there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(no_recursion)]
    pub shortcut: Vec<LayerSpec>,
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
    /// Named as its weights are, such as `4.body.0`.
    #[error("layer {name} ({layer}) {reason}; its input has shape {input:?}")]
    Layer { name: String, layer: String, reason: String, input: Vec<usize> },
    #[error("the last layer gives shape {found:?}, but the data has {classes} classes")]
    Output { found: Vec<usize>, classes: usize },
    #[error("preset {0} takes no `hidden`; only mlp does")]
    Hidden(String),
    #[error("preset {0} takes no `width`; only resnet18 and vgg19 do")]
    Width(String),
    #[error("the network has {found} parameters, more than the {limit} that are served")]
    TooLarge { found: usize, limit: usize },
}

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

impl NetworkSpec {
    /// Whether the network is one linear layer, at most flattened before, so that its loss is
    /// convex.
    pub fn is_linear(&self) -> bool {
        are_linear(&self.layers)
    }
}

impl fmt::Display for LayerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conv2d(_) => f.write_str("conv2d"),
            Self::Relu => f.write_str("relu"),
            Self::GroupNorm(_) => f.write_str("group_norm"),
            Self::MaxPool2d(_) => f.write_str("max_pool2d"),
            Self::GlobalAvgPool2d => f.write_str("global_avg_pool2d"),
            Self::Residual(_) => f.write_str("residual"),
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
