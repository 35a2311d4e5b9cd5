//! What layers make of a sample's shape, and which weights that takes.

use super::{Conv2dSpec, LayerSpec, NetworkError, NetworkSpec};

/// Beyond this, one process would not hold the weights and their gradients.
const PARAMETERS_MAX: usize = 200_000_000;

/// Most numbers that a layer may give for one sample; as many as a sample itself may have.
const ACTIVATIONS_MAX: usize = 1 << 24;

/// A weight or a bias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightSpec {
    /// The layer and the role, such as `3.weight` or `4.body.0.bias`.
    pub name: String,
    pub shape: Vec<usize>,
}

impl NetworkSpec {
    /// The shape of one sample before each layer and after the last: `layers.len() + 1` shapes.
    ///
    /// # Errors
    /// When a layer cannot take its input; names the layer.
    pub fn shapes(&self) -> Result<Vec<Vec<usize>>, NetworkError> {
        self.walk().map(|(shapes, _)| shapes)
    }

    /// In the order of the layers, a residual layer's body before its shortcut, a weight before its
    /// bias.
    ///
    /// # Errors
    /// When a layer cannot take its input; names the layer.
    pub fn weights(&self) -> Result<Vec<WeightSpec>, NetworkError> {
        self.walk().map(|(_, weights)| weights)
    }

    fn walk(&self) -> Result<(Vec<Vec<usize>>, Vec<WeightSpec>), NetworkError> {
        if self.layers.is_empty() {
            return Err(NetworkError::NoLayers);
        }
        if !matches!(self.input.len(), 1 | 3) || self.input.contains(&0) {
            return Err(NetworkError::Input(self.input.clone()));
        }
        let mut walk = Walk::default();
        let shapes = walk.over(&self.layers, &self.input, "")?;
        let parameters = walk.weights.iter().fold(0_usize, |sum, weight| {
            sum.saturating_add(weight.shape.iter().fold(1, |a, b| a.saturating_mul(*b)))
        });
        if parameters > PARAMETERS_MAX {
            return Err(NetworkError::TooLarge { found: parameters, limit: PARAMETERS_MAX });
        }
        Ok((shapes, walk.weights))
    }
}

/// The shape of one sample before each of `layers`, a whole network's or a residual layer's, and
/// after the last.
///
/// # Errors
/// When a layer cannot take its input.
pub fn shapes(layers: &[LayerSpec], input: &[usize]) -> Result<Vec<Vec<usize>>, NetworkError> {
    Walk::default().over(layers, input, "")
}

#[derive(Default)]
struct Walk {
    weights: Vec<WeightSpec>,
}

impl Walk {
    /// `place` stands before the layers' numbers in their names.
    fn over(
        &mut self,
        layers: &[LayerSpec],
        input: &[usize],
        place: &str,
    ) -> Result<Vec<Vec<usize>>, NetworkError> {
        let mut shapes = vec![input.to_vec()];
        for (index, layer) in layers.iter().enumerate() {
            let (input, name) = (&shapes[index], format!("{place}{index}"));
            let output = match layer {
                LayerSpec::Relu => Ok(input.clone()),
                LayerSpec::Flatten => Ok(vec![input.iter().product()]),
                LayerSpec::Linear(out) => linear(*out, input),
                LayerSpec::Conv2d(conv) => conv.output(input),
                LayerSpec::GroupNorm(groups) => group_norm(*groups, input),
                LayerSpec::MaxPool2d(window) => max_pool2d(*window, input),
                LayerSpec::GlobalAvgPool2d => {
                    image(input).map(|[channels, ..]| vec![channels, 1, 1])
                }
                LayerSpec::Residual(residual) => {
                    let body = self.end(&residual.body, input, &format!("{name}.body."))?;
                    let shortcut =
                        self.end(&residual.shortcut, input, &format!("{name}.shortcut."))?;
                    sum(body, &shortcut)
                }
            };
            let output = output.and_then(within_limits).map_err(|reason| {
                let (layer, input) = (layer.to_string(), input.clone());
                NetworkError::Layer { name: name.clone(), layer, reason, input }
            })?;
            if let Some(weight) = layer.weight(input) {
                let bias = WeightSpec { name: format!("{name}.bias"), shape: vec![weight[0]] };
                self.weights.push(WeightSpec { name: format!("{name}.weight"), shape: weight });
                self.weights.push(bias);
            }
            shapes.push(output);
        }
        Ok(shapes)
    }

    /// The shape after the last of `layers`.
    fn end(
        &mut self,
        layers: &[LayerSpec],
        input: &[usize],
        place: &str,
    ) -> Result<Vec<usize>, NetworkError> {
        Ok(self.over(layers, input, place)?.pop().unwrap_or_default())
    }
}

impl LayerSpec {
    /// The shape of the layer's own weight, whose bias is as long as its first dimension.
    fn weight(&self, input: &[usize]) -> Option<Vec<usize>> {
        match self {
            Self::Linear(out) => Some(vec![*out, input[0]]),
            Self::Conv2d(conv) => Some(vec![conv.out, input[0], conv.kernel, conv.kernel]),
            Self::GroupNorm(_) => Some(vec![input[0]]),
            Self::Relu
            | Self::MaxPool2d(_)
            | Self::GlobalAvgPool2d
            | Self::Residual(_)
            | Self::Flatten => None,
        }
    }
}

impl Conv2dSpec {
    fn output(&self, input: &[usize]) -> Result<Vec<usize>, String> {
        let [_, height, width] = image(input)?;
        match (self.output_side(height), self.output_side(width)) {
            (Some(height), Some(width)) => Ok(vec![self.out, height, width]),
            _ => Err("needs out, kernel and stride of at least 1 and a kernel that fits its input"
                .into()),
        }
    }

    fn output_side(&self, side: usize) -> Option<usize> {
        if self.out == 0 || self.kernel == 0 {
            return None;
        }
        let padded = self.padding.checked_mul(2)?.checked_add(side)?;
        padded.checked_sub(self.kernel)?.checked_div(self.stride).map(|steps| steps + 1)
    }
}

fn linear(out: usize, input: &[usize]) -> Result<Vec<usize>, String> {
    match (out, input) {
        (0, _) => Err("must give at least one feature".into()),
        (_, [_]) => Ok(vec![out]),
        _ => Err("takes flat features; put \"flatten\" before it".into()),
    }
}

fn group_norm(groups: usize, input: &[usize]) -> Result<Vec<usize>, String> {
    let channels = input[0];
    if groups == 0 || !channels.is_multiple_of(groups) {
        return Err(format!("needs a number of groups that divides its {channels} channels"));
    }
    // Less its mean, a single number is zero whatever it was.
    if groups == input.iter().product::<usize>() {
        return Err("needs fewer groups: each would be of one number".into());
    }
    Ok(input.to_vec())
}

fn max_pool2d(window: usize, input: &[usize]) -> Result<Vec<usize>, String> {
    let [channels, height, width] = image(input)?;
    if window == 0 || window > height || window > width {
        return Err("needs a window of at least 1 that fits its input".into());
    }
    Ok(vec![channels, height / window, width / window])
}

/// What a residual layer gives.
fn sum(body: Vec<usize>, shortcut: &[usize]) -> Result<Vec<usize>, String> {
    if body == shortcut {
        return Ok(body);
    }
    Err(format!(
        "cannot add what its body gives, {body:?}, and what its shortcut gives, {shortcut:?}; a \
         conv2d of 1x1 with the body's channels and stride is the usual shortcut"
    ))
}

fn image(input: &[usize]) -> Result<[usize; 3], String> {
    <[usize; 3]>::try_from(input).map_err(|_| "takes images [channels, height, width]".into())
}

fn within_limits(output: Vec<usize>) -> Result<Vec<usize>, String> {
    match output.iter().try_fold(1_usize, |a, b| a.checked_mul(*b)) {
        Some(numbers) if numbers <= ACTIVATIONS_MAX => Ok(output),
        _ => Err(format!("gives more than {ACTIVATIONS_MAX} numbers a sample")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(input: &[usize], layers: serde_json::Value) -> NetworkSpec {
        NetworkSpec { input: input.to_vec(), layers: serde_json::from_value(layers).unwrap() }
    }

    fn refusal(input: &[usize], layers: serde_json::Value) -> String {
        spec(input, layers).shapes().unwrap_err().to_string()
    }

    #[test]
    fn weights_are_named_by_their_way_to_them() {
        let network = spec(
            &[3, 8, 6],
            serde_json::json!([
                "relu",
                {"residual": {
                    "body": [
                        {"conv2d": {"out": 4, "kernel": 3, "stride": 2, "padding": 1}},
                        {"residual": {"body": [{"group_norm": 2}]}},
                    ],
                    "shortcut": [{"conv2d": {"out": 4, "kernel": 1, "stride": 2}}],
                }},
                "global_avg_pool2d",
                "flatten",
                {"linear": 5},
            ]),
        );
        let found = network.weights().unwrap();
        let found: Vec<_> =
            found.iter().map(|it| (it.name.as_str(), it.shape.as_slice())).collect();
        let expected: [(&str, &[usize]); 8] = [
            ("1.body.0.weight", &[4, 3, 3, 3]),
            ("1.body.0.bias", &[4]),
            ("1.body.1.body.0.weight", &[4]),
            ("1.body.1.body.0.bias", &[4]),
            ("1.shortcut.0.weight", &[4, 3, 1, 1]),
            ("1.shortcut.0.bias", &[4]),
            ("4.weight", &[5, 4]),
            ("4.bias", &[5]),
        ];
        assert_eq!(found, expected);
        let shapes = network.shapes().unwrap();
        assert_eq!(shapes[2..], [vec![4, 4, 3], vec![4, 1, 1], vec![4], vec![5]]);
    }

    #[test]
    fn layers_that_blow_up_are_refused_also_within_others() {
        let huge = serde_json::json!(
            {"conv2d": {"out": 1, "kernel": 1, "padding": 4_000_000_000_u64}});
        let error = refusal(&[3, 32, 32], serde_json::json!([huge, "flatten"]));
        assert!(error.contains("layer 0 (conv2d) gives more than"), "{error}");
        let error = refusal(&[3, 32, 32], serde_json::json!([{"residual": {"body": [huge]}}]));
        assert!(error.contains("layer 0.body.0 (conv2d) gives more than"), "{error}");
        let wide = serde_json::json!({"linear": 15_000});
        let error = refusal(&[9], serde_json::json!([wide, {"residual": {"body": [wide]}}]));
        assert!(error.contains("225165000 parameters"), "{error}");
    }

    #[test]
    fn groups_must_divide_the_channels_and_hold_more_than_one_number() {
        let error = refusal(&[6, 2, 2], serde_json::json!(["relu", {"group_norm": 4}]));
        assert!(error.contains("layer 1 (group_norm)") && error.contains("6 channels"), "{error}");
        assert!(refusal(&[6, 2, 2], serde_json::json!([{"group_norm": 0}])).contains("divides"));
        assert!(refusal(&[6], serde_json::json!([{"group_norm": 6}])).contains("one number"));
        assert!(spec(&[6, 2, 1], serde_json::json!([{"group_norm": 6}])).shapes().is_ok());
        assert!(spec(&[6], serde_json::json!([{"group_norm": 3}])).shapes().is_ok());
    }

    #[test]
    fn branches_must_give_the_same_shape() {
        let halving =
            serde_json::json!({"conv2d": {"out": 3, "kernel": 3, "stride": 2, "padding": 1}});
        let error = refusal(&[3, 8, 8], serde_json::json!([{"residual": {"body": [halving]}}]));
        for words in ["layer 0 (residual)", "[3, 4, 4]", "[3, 8, 8]", "1x1"] {
            assert!(error.contains(words), "{error}");
        }
        let linear =
            serde_json::json!({"residual": {"body": ["relu"], "shortcut": [{"linear": 3}]}});
        let error = refusal(&[3, 8, 8], serde_json::json!(["relu", linear]));
        assert!(error.contains("layer 1.shortcut.0 (linear)"), "{error}");
    }

    #[test]
    fn averages_are_of_images() {
        let error = refusal(&[12], serde_json::json!(["global_avg_pool2d"]));
        assert!(error.contains("layer 0 (global_avg_pool2d) takes images"), "{error}");
    }
}
