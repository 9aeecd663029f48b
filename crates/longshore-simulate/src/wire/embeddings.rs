//! OpenAI's embeddings: unit vectors that follow from the seed, the model and the text.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Reply;
use crate::digest::Digest;
use crate::draw::Draw;

pub(super) fn whole(reply: &Reply<'_>) -> Value {
    let (ask, embed) = (reply.ask, &reply.ask.embed);
    let data = embed.texts.iter().enumerate().map(|(at, text)| {
        let vector = vector(&ask.model, text, embed.dimensions, reply.seed);
        let embedding = if embed.base64 { json!(encoded(&vector)) } else { json!(vector) };
        json!({"object": "embedding", "index": at, "embedding": embedding})
    });
    let mut answer = json!({"object": "list", "data": data.collect::<Vec<_>>(), "model": ask.model});
    if reply.usage {
        answer["usage"] = json!({"prompt_tokens": ask.prompt.tokens(), "total_tokens": ask.prompt.tokens()});
    }
    answer
}

fn vector(model: &str, text: &str, dimensions: u64, seed: u64) -> Vec<f32> {
    let mut draw = Draw::new(seed, &Digest::of(format!("{model}\n{text}").as_bytes()), "embedding");
    let drawn: Vec<f64> = (0..dimensions).map(|_| draw.normal()).collect();
    let length = drawn.iter().map(|part| part * part).sum::<f64>().sqrt();
    drawn.iter().map(|part| (part / length) as f32).collect()
}

fn encoded(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|part| part.to_le_bytes()).collect();
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_have_length_one_and_follow_the_text() {
        let made = vector("m", "a", 1536, 1);
        let length: f32 = made.iter().map(|part| part * part).sum();
        assert!((length - 1.0).abs() < 1e-3, "{length}");
        assert_eq!(made, vector("m", "a", 1536, 1));
        assert_ne!(made, vector("m", "b", 1536, 1));
    }
}
