//! The networks that have names.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Conv2dSpec,
    LayerSpec::{self, Conv2d, Flatten, GlobalAvgPool2d, GroupNorm, Linear, MaxPool2d, Relu},
    NetworkError, NetworkSpec, ResidualSpec,
};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PresetSpec {
    pub preset: Preset,
    /// Widths of the hidden layers; `mlp` only, `[256]` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden: Option<Vec<usize>>,
    /// Channels of the first layer, which the later ones have multiples of; `resnet18` and `vgg19`
    /// only, 64 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<usize>,
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
    /// He et al. 2015 (arXiv 1512.03385), with group normalisation. It begins with a convolution of
    /// 3x3 and no pooling, as is usual for 32x32; inputs of any size.
    Resnet18,
    /// Simonyan & Zisserman 2014 (arXiv 1409.1556), configuration E, with group normalisation after
    /// each convolution and one linear layer over the mean of each channel, as is usual for 32x32.
    /// Inputs of any size; a pooling that would leave nothing of a smaller one is left out.
    Vgg19,
}

const WIDTH: usize = 64;

impl PresetSpec {
    /// # Errors
    /// When a parameter is not this preset's. Whether the layers fit the input is not checked.
    pub(super) fn resolve(
        &self,
        input: &[usize],
        classes: usize,
    ) -> Result<NetworkSpec, NetworkError> {
        use Preset::{Lenet5, Logistic, Mlp, Resnet18, Vgg19};
        let name = || format!("{:?}", self.preset).to_lowercase();
        if self.hidden.is_some() && self.preset != Mlp {
            return Err(NetworkError::Hidden(name()));
        }
        if self.width.is_some() && !matches!(self.preset, Resnet18 | Vgg19) {
            return Err(NetworkError::Width(name()));
        }
        let width = self.width.unwrap_or(WIDTH);
        // What is no image is refused by the first convolution.
        let sides = if let [_, height, width] = *input { [height, width] } else { [1, 1] };
        let layers = match self.preset {
            Logistic => flat(input, vec![Linear(classes)]),
            Mlp => flat(input, mlp(self.hidden.as_deref().unwrap_or(&[256]), classes)),
            Lenet5 => lenet5(classes),
            Resnet18 => resnet18(width, sides, classes),
            Vgg19 => vgg19(width, sides, classes),
        };
        Ok(NetworkSpec { input: input.to_vec(), layers })
    }
}

fn flat(input: &[usize], mut layers: Vec<LayerSpec>) -> Vec<LayerSpec> {
    if input.len() > 1 {
        layers.insert(0, Flatten);
    }
    layers
}

fn mlp(hidden: &[usize], classes: usize) -> Vec<LayerSpec> {
    let mut layers: Vec<_> = hidden.iter().flat_map(|width| [Linear(*width), Relu]).collect();
    layers.push(Linear(classes));
    layers
}

fn lenet5(classes: usize) -> Vec<LayerSpec> {
    let conv = |out| conv(out, 5, 1, 0);
    vec![
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
    ]
}

/// Four stages of two blocks; each stage but the first halves the image and has twice the channels.
fn resnet18(width: usize, mut sides: [usize; 2], classes: usize) -> Vec<LayerSpec> {
    let mut layers = normalised(conv(width, 3, 1, 1), sides);
    layers.push(Relu);
    for (doublings, block) in (0..4).flat_map(|stage| [(stage, 0), (stage, 1)]) {
        let halves = doublings > 0 && block == 0;
        let (out, stride) = (doubled(width, doublings), if halves { 2 } else { 1 });
        sides = sides.map(|side| side.div_ceil(stride));
        let mut body = normalised(conv(out, 3, stride, 1), sides);
        body.push(Relu);
        body.extend(normalised(conv(out, 3, 1, 1), sides));
        let shortcut = if halves { normalised(conv(out, 1, stride, 0), sides) } else { Vec::new() };
        layers.extend([LayerSpec::Residual(ResidualSpec { body, shortcut }), Relu]);
    }
    layers.extend([GlobalAvgPool2d, Flatten, Linear(classes)]);
    layers
}

/// Sixteen convolutions in five blocks, each of which ends by halving the image.
fn vgg19(width: usize, mut sides: [usize; 2], classes: usize) -> Vec<LayerSpec> {
    let mut layers = Vec::new();
    for (convolutions, doublings) in [(2, 0), (2, 1), (4, 2), (4, 3), (4, 3)] {
        for _ in 0..convolutions {
            layers.extend(normalised(conv(doubled(width, doublings), 3, 1, 1), sides));
            layers.push(Relu);
        }
        if sides.iter().all(|side| *side > 1) {
            layers.push(MaxPool2d(2));
            sides = sides.map(|side| side / 2);
        }
    }
    layers.extend([GlobalAvgPool2d, Flatten, Linear(classes)]);
    layers
}

fn doubled(width: usize, times: u32) -> usize {
    width.saturating_mul(1 << times)
}

fn conv(out: usize, kernel: usize, stride: usize, padding: usize) -> LayerSpec {
    Conv2d(Conv2dSpec { out, kernel, stride, padding })
}

/// A convolution that gives images of `sides`, and its normalisation.
///
/// Not batch normalisation: its means and variances are averages over training samples, deleted
/// ones among them, that no step along a gradient takes out; and while it trains, the loss of a
/// sample depends on the others of its batch. Group normalisation keeps each sample to itself and
/// has no state but weights.
fn normalised(conv: LayerSpec, [height, width]: [usize; 2]) -> Vec<LayerSpec> {
    let channels = if let Conv2d(conv) = &conv { conv.out } else { 0 };
    let groups = groups(channels, height.saturating_mul(width));
    vec![conv, GroupNorm(groups)]
}

/// In how many groups `channels` of `pixels` numbers each are normalised: 32, as Wu & He 2018
/// chose, or the next smaller number that divides the channels and leaves 2 channels and 16 numbers
/// to each group. Alone in its group, a channel would lose what its convolution's bias adds; and
/// fewer numbers lose much of what they say with their mean and variance.
fn groups(channels: usize, pixels: usize) -> usize {
    let fits = |groups: &usize| {
        let members = channels / groups;
        channels.is_multiple_of(*groups) && members >= 2 && members.saturating_mul(pixels) >= 16
    };
    (1..=32).rev().find(fits).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::network::Architecture;

    fn resolve(preset: serde_json::Value, input: &[usize]) -> Result<NetworkSpec, NetworkError> {
        serde_json::from_value::<Architecture>(preset).unwrap().resolve(input, 10)
    }

    fn parameters(spec: &NetworkSpec) -> usize {
        spec.weights().unwrap().iter().map(|it| it.shape.iter().product::<usize>()).sum()
    }

    /// Of the normalisations, in the order of the layers; of a body before its shortcut.
    fn groups_of(layers: &[LayerSpec]) -> Vec<usize> {
        let of_layer = |layer: &LayerSpec| match layer {
            GroupNorm(groups) => vec![*groups],
            LayerSpec::Residual(it) => [groups_of(&it.body), groups_of(&it.shortcut)].concat(),
            _ => vec![],
        };
        layers.iter().flat_map(of_layer).collect()
    }

    #[test]
    fn lenet5_has_the_shapes_of_the_published_network() {
        let spec = resolve(serde_json::json!({"preset": "lenet5"}), &[3, 32, 32]).unwrap();
        let shapes = spec.shapes().unwrap();
        assert_eq!(shapes[1], [6, 28, 28]);
        assert_eq!(shapes[7], [400]);
        assert_eq!(shapes[12], [10]);
    }

    /// By hand, a convolution as `in * out * kernel^2 + out`, its normalisation as `2 * out`:
    ///
    /// | | |
    /// |---|---|
    /// | first, 3 to 64 | 1,728 + 64 + 128 = 1,920 |
    /// | of 64, 4 of 64 to 64 | 4 * (36,864 + 64 + 128) = 148,224 |
    /// | of 128: 64 to 128, 3 of 128, shortcut | 74,112 + 3 * 147,840 + 8,576 = 526,208 |
    /// | of 256: 128 to 256, 3 of 256, shortcut | 295,680 + 3 * 590,592 + 33,536 = 2,100,992 |
    /// | of 512: 256 to 512, 3 of 512, shortcut | 1,181,184 + 3 * 2,360,832 + 132,608 = 8,396,288 |
    /// | linear | 512 * 10 + 10 = 5,130 |
    ///
    /// 4,800 of them are biases of convolutions, without which they are the 11,173,962 that are
    /// commonly given.
    #[test]
    fn resnet18_has_the_shapes_and_sizes_of_the_published_network() {
        let spec = resolve(serde_json::json!({"preset": "resnet18"}), &[3, 32, 32]).unwrap();
        let shapes = spec.shapes().unwrap();
        assert_eq!(spec.layers.len(), 22);
        for (layer, shape) in
            [(1, [64, 32, 32]), (6, [64, 32, 32]), (8, [128, 16, 16]), (12, [256, 8, 8])]
        {
            assert_eq!(shapes[layer], shape);
        }
        assert_eq!(
            shapes[18..],
            [vec![512, 4, 4], vec![512, 4, 4], vec![512, 1, 1], vec![512], vec![10]]
        );
        assert_eq!(groups_of(&spec.layers), [32; 20]);
        let by_hand = 1_920 + 148_224 + 526_208 + 2_100_992 + 8_396_288 + 5_130;
        assert_eq!((parameters(&spec), by_hand), (11_178_762, 11_178_762));
        let names: Vec<_> = spec.weights().unwrap().into_iter().map(|it| it.name).collect();
        for name in
            ["0.weight", "3.body.0.weight", "7.shortcut.1.bias", "17.body.4.weight", "21.bias"]
        {
            assert!(names.iter().any(|it| it == name), "{name}");
        }
    }

    /// By hand, with the convolutions above: 1,920 + 37,056 of 64 channels, 74,112 + 147,840 of
    /// 128, 295,680 + 3 * 590,592 of 256, 1,181,184 + 7 * 2,360,832 of 512, and 5,130.
    #[test]
    fn vgg19_has_the_shapes_and_sizes_of_the_published_network() {
        let spec = resolve(serde_json::json!({"preset": "vgg19"}), &[3, 32, 32]).unwrap();
        let shapes = spec.shapes().unwrap();
        assert_eq!(spec.layers.len(), 56);
        let after_pools: Vec<_> = spec
            .layers
            .iter()
            .zip(&shapes[1..])
            .filter(|(layer, _)| matches!(layer, MaxPool2d(2)))
            .map(|(_, shape)| shape.as_slice())
            .collect();
        let expected = [[64, 16, 16], [128, 8, 8], [256, 4, 4], [512, 2, 2], [512, 1, 1]];
        assert_eq!(after_pools, expected);
        assert_eq!(groups_of(&spec.layers), [32; 16]);
        let (two, four) = (1_920 + 37_056, 74_112 + 147_840 + 295_680 + 3 * 590_592);
        let by_hand = two + four + 1_181_184 + 7 * 2_360_832 + 5_130;
        assert_eq!((parameters(&spec), by_hand), (20_040_522, 20_040_522));
    }

    #[test]
    fn reduced_networks_take_small_images_in_fewer_groups() {
        let narrow = |preset| serde_json::json!({"preset": preset, "width": 8});
        let resnet = resolve(narrow("resnet18"), &[1, 8, 8]).unwrap();
        assert_eq!(resnet.shapes().unwrap()[18], [64, 1, 1]);
        assert_eq!(groups_of(&resnet.layers), [[4; 5], [8; 5], [8; 5], [4; 5]].concat());
        let vgg = resolve(narrow("vgg19"), &[1, 8, 8]).unwrap();
        let pools = vgg.layers.iter().filter(|layer| matches!(layer, MaxPool2d(_))).count();
        assert_eq!((pools, &vgg.shapes().unwrap()[vgg.layers.len() - 3]), (3, &vec![64, 1, 1]));
        for width in [1, 3, 8, 20, 64, 96] {
            for input in [[1, 1, 1], [3, 5, 9], [1, 28, 28], [3, 64, 64]] {
                for preset in ["resnet18", "vgg19"] {
                    let preset = serde_json::json!({"preset": preset, "width": width});
                    let fits = resolve(preset, &input).map(|_| ());
                    assert!(fits.is_ok() || (width, input) == (1, [1, 1, 1]), "{fits:?}");
                }
            }
        }
    }

    #[test]
    fn parameters_of_other_presets_and_wrong_inputs_are_refused() {
        let refused = |preset, input: &[usize]| resolve(preset, input).unwrap_err().to_string();
        let hidden = serde_json::json!({"preset": "resnet18", "hidden": [8]});
        assert!(refused(hidden, &[3, 32, 32]).contains("resnet18 takes no `hidden`"));
        let width = serde_json::json!({"preset": "lenet5", "width": 8});
        assert!(refused(width, &[3, 32, 32]).contains("lenet5 takes no `width`"));
        let vgg = |width: usize| serde_json::json!({"preset": "vgg19", "width": width});
        assert!(refused(vgg(8), &[30]).contains("layer 0 (conv2d) takes images"));
        assert!(refused(vgg(0), &[3, 32, 32]).contains("layer 0 (conv2d) needs out"));
        assert!(refused(vgg(usize::MAX), &[3, 32, 32]).contains("layer 0 (conv2d) gives more"));
        assert!(refused(vgg(1_024), &[3, 32, 32]).contains("parameters, more than"));
    }
}
