//! The tensors of a transformer: names and shapes as Hugging Face's `GPT2LMHeadModel` and `LlamaForCausalLM` have them, and what they begin with. A shape between the two keeps the
//! names of the one whose feed-forward network it has.

use mlctl_protocol::spec::{FeedForward, GptSpec, Norm, Positions};

/// What a tensor begins with: nanoGPT's initialisation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::nn) enum Begin {
    /// 0: biases.
    Zero,
    /// 1: what normalised values are multiplied with.
    One,
    /// Normal numbers of this deviation.
    Normal(f32),
}

/// A tensor.
pub(in crate::nn) type Planned = (String, Vec<usize>, Begin);

/// The deviation of weights.
const DEVIATION: f32 = 0.02;

/// The names of a layer's tensors, behind that of the layer.
pub(super) struct Names {
    pub(super) before_attention: &'static str,
    pub(super) attend: &'static [&'static str],
    pub(super) attended: &'static str,
    pub(super) before_feed: &'static str,
    pub(super) feed: &'static [&'static str],
    pub(super) fed: &'static str,
    /// Of all layers, before a layer's number.
    pub(super) layers: &'static str,
    pub(super) tokens: &'static str,
    pub(super) places: &'static str,
    pub(super) end: &'static str,
    /// Whether linear weights are (in, out).
    pub(super) inputs_first: bool,
}

const GPT2: Names = Names {
    before_attention: "ln_1",
    attend: &["attn.c_attn"],
    attended: "attn.c_proj",
    before_feed: "ln_2",
    feed: &["mlp.c_fc"],
    fed: "mlp.c_proj",
    layers: "transformer.h",
    tokens: "transformer.wte",
    places: "transformer.wpe",
    end: "transformer.ln_f",
    inputs_first: true,
};

const LLAMA: Names = Names {
    before_attention: "input_layernorm",
    attend: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    attended: "self_attn.o_proj",
    before_feed: "post_attention_layernorm",
    feed: &["mlp.gate_proj", "mlp.up_proj"],
    fed: "mlp.down_proj",
    layers: "model.layers",
    tokens: "model.embed_tokens",
    places: "model.embed_positions",
    end: "model.norm",
    inputs_first: false,
};

/// The head that makes logits, where it is not the embedding.
pub(super) const HEAD: &str = "lm_head";

impl Names {
    /// Those of a transformer.
    pub(super) fn of(spec: &GptSpec) -> &'static Self {
        if spec.feed_forward == FeedForward::Swiglu { &LLAMA } else { &GPT2 }
    }

    /// A part of a layer.
    pub(super) fn part(&self, layer: u32, part: &str) -> String {
        format!("{}.{layer}.{part}", self.layers)
    }
}

/// Every tensor, in the order of the layers.
pub(in crate::nn) fn plan(spec: &GptSpec) -> Vec<Planned> {
    let names = Names::of(spec);
    let [width, context, vocab, hidden] =
        [spec.width, spec.context, spec.vocab.unwrap_or(0), spec.hidden()].map(|n| n as usize);
    let kv_width = spec.kv_heads() as usize * spec.head_size() as usize;
    #[expect(clippy::cast_precision_loss, reason = "some hundred layers")]
    let deep = DEVIATION / (2.0 * spec.depth.max(1) as f32).sqrt();
    let mut plan = Plan { tensors: Vec::new(), spec, names };
    plan.add(names.tokens, "weight", vec![vocab, width], Begin::Normal(DEVIATION));
    if spec.positions == Positions::Learned {
        plan.add(names.places, "weight", vec![context, width], Begin::Normal(DEVIATION));
    }
    let attend: &[usize] = if names.attend.len() == 1 { &[width + 2 * kv_width] } else { &[width, kv_width, kv_width] };
    for layer in 0..spec.depth {
        plan.norm(&names.part(layer, names.before_attention), width);
        for (part, outputs) in names.attend.iter().zip(attend) {
            plan.linear(&names.part(layer, part), (width, *outputs), DEVIATION);
        }
        plan.linear(&names.part(layer, names.attended), (width, width), deep);
        plan.norm(&names.part(layer, names.before_feed), width);
        for part in names.feed {
            plan.linear(&names.part(layer, part), (width, hidden), DEVIATION);
        }
        plan.linear(&names.part(layer, names.fed), (hidden, width), deep);
    }
    plan.norm(names.end, width);
    if !spec.tied {
        plan.add(HEAD, "weight", vec![vocab, width], Begin::Normal(DEVIATION));
    }
    plan.tensors
}

struct Plan<'a> {
    tensors: Vec<Planned>,
    spec: &'a GptSpec,
    names: &'a Names,
}

impl Plan<'_> {
    fn add(&mut self, of: &str, what: &str, shape: Vec<usize>, begin: Begin) {
        self.tensors.push((format!("{of}.{what}"), shape, begin));
    }

    fn norm(&mut self, of: &str, width: usize) {
        self.add(of, "weight", vec![width], Begin::One);
        if self.spec.norm == Norm::Layer && self.spec.has_biases() {
            self.add(of, "bias", vec![width], Begin::Zero);
        }
    }

    fn linear(&mut self, of: &str, (inputs, outputs): (usize, usize), deviation: f32) {
        let shape = if self.names.inputs_first { vec![inputs, outputs] } else { vec![outputs, inputs] };
        self.add(of, "weight", shape, Begin::Normal(deviation));
        if self.spec.has_biases() {
            self.add(of, "bias", vec![outputs], Begin::Zero);
        }
    }
}
