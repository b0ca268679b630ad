//! `config.json`: what a model is, beside its weights. Stored for years and read by others: fields are only added, and a file of
//! another format is refused. The same object is in every checkpoint's `state.json`, under `config`.

use mlctl_protocol::{
    progress::Metrics,
    spec::{GptSpec, Loss, ModelSpec, Split},
};
use serde::{Deserialize, Serialize};

use crate::{
    data::{Identity, scaling::Scaler, tokenizer::Tokenizer},
    nn,
};

/// The format this build reads and writes.
pub const FORMAT: u32 = 1;

/// The largest config written or read, in bytes.
pub const MAX_CONFIG_BYTES: u64 = 8 * 1024 * 1024;

/// What a model is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// [`FORMAT`] of the writer.
    pub format: u32,
    /// The architecture.
    pub network: ModelSpec,
    /// What was minimised; with `cross_entropy` the outputs are logits of classes.
    pub loss: Loss,
    /// The columns it was trained on, in the order of its inputs.
    pub features: Vec<String>,
    /// The columns it learnt.
    pub targets: Vec<String>,
    /// Classes, where it tells classes apart.
    pub classes: Option<u32>,
    /// What is done to features first.
    pub scaling: Scaler,
    /// How the data was divided.
    pub split: Split,
    /// Which data it was.
    pub dataset: Identity,
    /// How text becomes its tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<Tokenizer>,
    /// Optimizer steps done.
    pub step: u64,
    /// The metrics known at that step.
    pub metrics: Metrics,
    /// The digest of the weights beside it, see `ModelRef::digest`; absent in a checkpoint, whose manifest has checksums.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_digest: Option<String>,
}

impl ModelConfig {
    /// Reads a config and checks what a type cannot say.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub fn from_json(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let Format { format } =
            serde_json::from_slice(bytes).map_err(|error| format!("not a model's config: {error}"))?;
        if format != FORMAT {
            return Err(format!("config format {format} is not supported; this build reads format {FORMAT}"));
        }
        let config: Self = serde_json::from_slice(bytes).map_err(|error| format!("not a model's config: {error}"))?;
        config.check()?;
        Ok(config)
    }

    /// The bytes stored. Equal configs give equal bytes.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub fn to_json(&self) -> Result<Vec<u8>, String> {
        let mut json = serde_json::to_vec_pretty(self).map_err(|error| error.to_string())?;
        json.push(b'\n');
        if json.len() as u64 > MAX_CONFIG_BYTES {
            return Err(format!("the model's config has {} bytes, more than {MAX_CONFIG_BYTES}", json.len()));
        }
        Ok(json)
    }

    /// Inputs and outputs of the network.
    #[must_use]
    pub fn shape(&self) -> (usize, usize) {
        shape(&self.network)
    }

    fn check(&self) -> Result<(), String> {
        if let ModelSpec::Gpt(gpt) = &self.network
            && (gpt.depth > GptSpec::MAX_DEPTH || gpt.context > GptSpec::MAX_CONTEXT)
        {
            return Err(format!("a transformer of {} layers and a context of {} is too large", gpt.depth, gpt.context));
        }
        match &self.tokenizer {
            Some(tokenizer) if !tokenizer.is_sound() || tokenizer.size() > self.network.outputs() as usize => {
                return Err("its tokenizer is not one of its network".into());
            }
            _ => {}
        }
        if let Some((name, shape)) = nn::layout(&self.network).into_iter().find(|(_, shape)| shape.contains(&0)) {
            return Err(format!("its tensor {name:?} of shape {shape:?} would hold nothing"));
        }
        let (inputs, outputs) = self.shape();
        if inputs != self.features.len() {
            return Err(format!("the network takes {inputs} features and {} are named", self.features.len()));
        }
        if !self.scaling.fits(inputs) {
            return Err(format!("its scaling is not one of {inputs} features"));
        }
        match self.classes {
            Some(classes) if classes as usize != outputs => {
                Err(format!("the network has {outputs} outputs and {classes} classes"))
            }
            None if self.loss == Loss::CrossEntropy => Err("it was trained on classes and has none".into()),
            _ => Ok(()),
        }
    }
}

/// Inputs and outputs of a network.
#[must_use]
pub fn shape(network: &ModelSpec) -> (usize, usize) {
    (usize::try_from(network.inputs()).unwrap_or(usize::MAX), network.outputs() as usize)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// As written by version 0.1.0; it must load for ever.
    pub(crate) const V1: &str = include_str!("../../tests/fixtures/config-v1.json");

    #[test]
    fn the_first_release_s_config_still_loads() {
        let config = ModelConfig::from_json(V1.as_bytes()).unwrap();
        assert_eq!((config.shape(), config.step, config.classes), ((2, 3), 40, Some(3)));
        assert_eq!(ModelConfig::from_json(&config.to_json().unwrap()).unwrap(), config);
        assert_eq!(String::from_utf8(config.to_json().unwrap()).unwrap(), V1);
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        for (old, new, why) in [
            ("\"format\": 1", "\"format\": 2", "format 2 is not supported"),
            ("\"width\"\n", "\"width\", \"b\"\n", "takes 2 features and 3 are named"),
            ("\"classes\": 3", "\"classes\": 4", "3 outputs and 4 classes"),
            ("\"classes\": 3", "\"classes\": null", "has none"),
            ("\"kind\": \"standard\"", "\"kind\": \"none\"", "scaling"),
            ("\"mlp\"", "\"transformer\"", "transformer"),
            ("\"step\": 40", "\"step\": -1", "not a model's config"),
            ("      8,\n", "      0,\n", "\"layer1.weight\" of shape [0, 2] would hold nothing"),
        ] {
            let text = V1.replacen(old, new, 1);
            assert_ne!(text, V1, "the edit {old} must apply");
            let error = ModelConfig::from_json(text.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{new}: {error}");
        }
    }

    #[test]
    fn a_convolutional_network_s_config_goes_there_and_back_and_its_image_is_checked() {
        let network = |side: u32| {
            serde_json::json!({"type": "cnn", "image": {"channels": 2, "height": 1, "width": side}, "layers": [3],
                "convolutions": [{"channels": 4, "pool": 1}]})
        };
        let with = |network| {
            let mut config: serde_json::Value = serde_json::from_str(V1).unwrap();
            config["network"] = network;
            ModelConfig::from_json(config.to_string().as_bytes())
        };
        let config = with(network(1)).unwrap();
        assert_eq!(config.shape(), (2, 3));
        assert_eq!(ModelConfig::from_json(&config.to_json().unwrap()).unwrap(), config);
        assert!(with(network(2)).unwrap_err().contains("takes 4 features and 2 are named"));
        let mut nothing = network(1);
        nothing["convolutions"][0]["pool"] = 2.into();
        assert!(with(nothing).unwrap_err().contains("\"fc1.weight\" of shape [3, 0] would hold nothing"));
    }

    #[test]
    fn a_later_version_may_add_fields() {
        let text = V1.replacen("\"step\"", "\"later\": {\"a\": 1}, \"step\"", 1);
        assert!(ModelConfig::from_json(text.as_bytes()).is_ok());
    }
}
