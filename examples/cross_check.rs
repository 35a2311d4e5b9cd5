//! What `cross_check.py` compares with: a small training and the reference step, as files.
//!
//! `cargo run --example cross_check -- FOLDER`

use std::{collections::BTreeMap, error::Error, fs, path::PathBuf};

use burn::tensor::Device;
use forgetd::{
    dataset::{digits, encoder::Encoder},
    domain::{
        examples::Examples,
        model::Recipe,
        network::{Conv2dSpec, LayerSpec, NetworkSpec, ResidualSpec},
        sample::{Split, StoredSample},
        watch::Unwatched,
    },
    nn::{
        network::Network,
        order::{Purpose, shuffled},
        prediction::log_probabilities,
        training::train,
        weights::to_safetensors,
    },
    unlearning::{self, Method, MethodParameters, Task},
};
use safetensors::{Dtype, tensor::TensorView};

const ROWS: usize = 500;
const FORGOTTEN: usize = 25;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(std::env::args().nth(1).ok_or("say the folder to write to")?);
    let examples = examples()?;
    for (name, layers) in [("mlp", mlp()), ("convolution", convolution()), ("residual", residual())]
    {
        let spec = NetworkSpec { input: examples.shape.clone(), layers };
        for restriction in [0.0, 0.005] {
            let recipe = Recipe {
                epochs: 10,
                gradient_restriction: restriction,
                seed: 7,
                ..Recipe::default()
            };
            let case = folder.join(format!("{name}-restriction-{restriction}"));
            fs::create_dir_all(&case)?;
            export(&case, &spec, &examples, &recipe)?;
        }
    }
    Ok(())
}

fn export(
    folder: &std::path::Path,
    spec: &NetworkSpec,
    examples: &Examples,
    recipe: &Recipe,
) -> Result<(), Box<dyn Error>> {
    let device = Device::flex();
    let first = Network::init(spec, recipe.seed, &device)?;
    let trained = train(spec, examples, recipe, &device, &Unwatched)?;

    let rows: Vec<usize> = (0..examples.len()).collect();
    let (forgotten, retained) = rows.split_at(FORGOTTEN);
    let (forgotten, retained) = (examples.select(forgotten), examples.select(retained));
    let method = unlearning::by_name("iau-reference", &MethodParameters::new())?;
    let Method::Update(reference) = method else {
        return Err("there is no iau-reference".into());
    };
    let task = Task {
        network: &trained,
        forgotten_out_of_fold: &log_probabilities(&trained, &forgotten),
        forgotten_anchor: &log_probabilities(&trained, &forgotten),
        forgotten: &forgotten,
        retained_out_of_fold: &log_probabilities(&trained, &retained),
        retained_anchor: &log_probabilities(&trained, &retained),
        retained_total: retained.len(),
        retained: &retained,
        holdout: &examples.select(&[]),
        holdout_out_of_fold: &[],
        holdout_anchor: &[],
        perturbation: None,
        seed: 0,
        device: &device,
    };
    let updated = reference.update(&task, &Unwatched)?.network;

    fs::write(folder.join("first.safetensors"), to_safetensors(&first))?;
    fs::write(folder.join("trained.safetensors"), to_safetensors(&trained))?;
    fs::write(folder.join("updated.safetensors"), to_safetensors(&updated))?;
    fs::write(folder.join("network.json"), serde_json::to_vec_pretty(spec)?)?;
    let mut facts = serde_json::to_value(recipe)?;
    facts["forgotten"] = FORGOTTEN.into();
    fs::write(folder.join("recipe.json"), serde_json::to_vec_pretty(&facts)?)?;
    fs::write(folder.join("data.safetensors"), data(examples, recipe)?)?;
    Ok(())
}

/// The samples, and the order in which each epoch visits them.
fn data(examples: &Examples, recipe: &Recipe) -> Result<Vec<u8>, Box<dyn Error>> {
    let rows: Vec<usize> = (0..examples.len()).collect();
    let floats = examples.gather(&rows);
    let x: Vec<u8> = floats.iter().flat_map(|value| value.to_le_bytes()).collect();
    let y: Vec<u8> =
        examples.labels.iter().flat_map(|label| i64::from(*label).to_le_bytes()).collect();
    let mut order = Vec::new();
    for epoch in 0..recipe.epochs {
        for row in shuffled(recipe.seed, Purpose::Epoch(epoch), &examples.ordinals) {
            order.extend(i64::try_from(row)?.to_le_bytes());
        }
    }
    let shape = [&[examples.len()], examples.shape.as_slice()].concat();
    let epochs = vec![usize::try_from(recipe.epochs)?, examples.len()];
    let views = BTreeMap::from([
        ("x", TensorView::new(Dtype::F32, shape, &x)?),
        ("y", TensorView::new(Dtype::I64, vec![examples.len()], &y)?),
        ("order", TensorView::new(Dtype::I64, epochs, &order)?),
    ]);
    Ok(safetensors::serialize(views, None)?)
}

fn examples() -> Result<Examples, Box<dyn Error>> {
    let mut samples = Vec::new();
    for (ordinal, raw) in (0..).zip(digits::digits().take(ROWS)) {
        let raw = raw?;
        let (features, label) = (raw.features, raw.label);
        let id = uuid::Uuid::nil();
        samples.push(StoredSample { id, ordinal, split: Split::Train, features, label });
    }
    Ok(Encoder::fit(&digits::schema(), &samples)?.encode(&samples)?)
}

fn mlp() -> Vec<LayerSpec> {
    vec![LayerSpec::Flatten, LayerSpec::Linear(32), LayerSpec::Relu, LayerSpec::Linear(10)]
}

fn convolution() -> Vec<LayerSpec> {
    vec![
        conv(6, 3, 1),
        LayerSpec::Relu,
        LayerSpec::MaxPool2d(2),
        conv(12, 3, 1),
        LayerSpec::Relu,
        LayerSpec::Flatten,
        LayerSpec::Linear(10),
    ]
}

fn residual() -> Vec<LayerSpec> {
    let (norm, relu) = (LayerSpec::GroupNorm(4), LayerSpec::Relu);
    let block = |out, stride, shortcut| {
        let first = [conv(out, 3, stride), norm.clone(), relu.clone()];
        let body = [&first[..], &[conv(out, 3, 1), norm.clone()]].concat();
        LayerSpec::Residual(ResidualSpec { body, shortcut })
    };
    vec![
        conv(8, 3, 1),
        norm.clone(),
        relu.clone(),
        block(8, 1, vec![]),
        relu.clone(),
        block(16, 2, vec![conv(16, 1, 2), norm.clone()]),
        relu.clone(),
        LayerSpec::GlobalAvgPool2d,
        LayerSpec::Flatten,
        LayerSpec::Linear(10),
    ]
}

/// Padded so that the image keeps its size at a stride of 1.
fn conv(out: usize, kernel: usize, stride: usize) -> LayerSpec {
    LayerSpec::Conv2d(Conv2dSpec { out, kernel, stride, padding: kernel / 2 })
}
