//! Signatures of messages, by the Standard Webhooks specification (symmetric, `v1`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName, HeaderValue};
use sha2::Sha256;

/// What a secret begins with.
const PREFIX: &str = "whsec_";

/// What a webhook's messages are signed with. Has no `Debug`: it is never shown.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

/// Why a text is no secret; never holds any of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    #[error("a webhook's secret begins with `whsec_`")]
    Prefix,
    #[error("what follows `whsec_` is not base64")]
    Base64,
    #[error("a webhook's secret holds 24 to 64 bytes, this one {0}: make one with `openssl rand -base64 32`")]
    Length(usize),
}

impl Secret {
    /// Reads `whsec_` and base64 of 24 to 64 bytes; space around it is dropped.
    pub fn parse(text: &str) -> Result<Secret, SecretError> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(SecretError::Prefix)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| SecretError::Base64)?;
        match bytes.len() {
            24..=64 => Ok(Secret(bytes)),
            length => Err(SecretError::Length(length)),
        }
    }

    /// Signs `id.timestamp.body`; the timestamp is in seconds since 1970.
    fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

/// The three headers of a message; one signature for each secret, so that a receiver may know any of them.
pub fn headers(secrets: &[Secret], id: &str, timestamp: i64, body: &[u8]) -> HeaderMap {
    let signatures: Vec<String> = secrets.iter().map(|secret| secret.sign(id, timestamp, body)).collect();
    let texts = [
        ("webhook-id", id.to_owned()),
        ("webhook-timestamp", timestamp.to_string()),
        ("webhook-signature", signatures.join(" ")),
    ];
    let header = |(name, text): (&'static str, String)| {
        let value = HeaderValue::try_from(text).expect("ids, numbers and base64 are printable");
        (HeaderName::from_static(name), value)
    };
    texts.into_iter().map(header).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the reference implementations' own tests.
    const KNOWN: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn secret(text: &str) -> Secret {
        Secret::parse(text).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn a_signature_is_that_of_the_reference() {
        let body = br#"{"test": 2432232314}"#;
        let signature = secret(KNOWN).sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn each_secret_signs_and_their_order_stays() {
        let other = format!("whsec_{}", STANDARD.encode([7; 32]));
        let secrets = [secret(KNOWN), secret(&other)];
        let headers = headers(&secrets, "m-1", 5, b"{}");
        let both = format!("{} {}", secrets[0].sign("m-1", 5, b"{}"), secrets[1].sign("m-1", 5, b"{}"));
        assert_eq!(headers["webhook-signature"], both);
        assert_eq!(
            (&headers["webhook-id"], &headers["webhook-timestamp"]),
            (&"m-1".parse().unwrap(), &"5".parse().unwrap())
        );
    }

    #[test]
    fn what_is_no_secret_is_refused_and_not_repeated() {
        let refused = |text: &str| Secret::parse(text).map(drop).expect_err("refused");
        assert_eq!(refused("hunter2"), SecretError::Prefix);
        assert_eq!(refused("whsec_hunter2!"), SecretError::Base64);
        assert_eq!(refused(&format!("whsec_{}", STANDARD.encode([1; 23]))), SecretError::Length(23));
        assert_eq!(refused(&format!("whsec_{}", STANDARD.encode([1; 65]))), SecretError::Length(65));
        assert!(Secret::parse(&format!("  {KNOWN}\n")).is_ok());
        for error in [refused("hunter2"), refused("whsec_hunter2!")] {
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
