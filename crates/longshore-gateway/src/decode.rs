//! Bodies that a provider packed although it was asked not to.

use std::io::{self, Write};

use flate2::write::{MultiGzDecoder, ZlibDecoder};

/// Unpacks a body chunk by chunk.
pub enum Decoder {
    Plain,
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    Zlib(Box<ZlibDecoder<Vec<u8>>>),
}

/// How much is unpacked at once, at most a thousand times as large unpacked.
const STEP: usize = 4 << 10;

/// A content encoding that was not asked for and is not known here.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the provider's answer is packed as `{0}`, which was not asked for")]
pub struct UnknownEncoding(pub String);

impl Decoder {
    /// `encoding` is the header `content-encoding`, if there is one.
    pub fn new(encoding: Option<&str>) -> Result<Decoder, UnknownEncoding> {
        match encoding.map(|encoding| encoding.trim().to_ascii_lowercase()).as_deref() {
            None | Some("" | "identity") => Ok(Decoder::Plain),
            Some("gzip" | "x-gzip") => Ok(Decoder::Gzip(Box::new(MultiGzDecoder::new(Vec::new())))),
            Some("deflate") => Ok(Decoder::Zlib(Box::new(ZlibDecoder::new(Vec::new())))),
            Some(other) => Err(UnknownEncoding(other.chars().take(40).collect())),
        }
    }

    /// Returns what the chunk unpacks to; what is not complete yet comes with a later one.
    ///
    /// Stops once that is more than `most` bytes: a small chunk may hold a thousand times its size. The answer is too large
    /// then, and cannot be gone on with.
    pub fn push(&mut self, chunk: bytes::Bytes, most: usize) -> io::Result<bytes::Bytes> {
        match self {
            Decoder::Plain => Ok(chunk),
            Decoder::Gzip(decoder) => {
                for piece in chunk.chunks(STEP) {
                    decoder.write_all(piece)?;
                    if decoder.get_ref().len() > most {
                        break;
                    }
                }
                // Else it keeps back what it has until its own buffer is full.
                decoder.flush()?;
                Ok(std::mem::take(decoder.get_mut()).into())
            }
            Decoder::Zlib(decoder) => {
                for piece in chunk.chunks(STEP) {
                    decoder.write_all(piece)?;
                    if decoder.get_ref().len() > most {
                        break;
                    }
                }
                decoder.flush()?;
                Ok(std::mem::take(decoder.get_mut()).into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(encoding: &str, packed: Vec<u8>, expected: &[u8]) {
        for step in [1, 7, packed.len()] {
            let mut decoder = Decoder::new(Some(encoding)).expect("known");
            let mut out = Vec::new();
            for chunk in packed.chunks(step) {
                out.extend(decoder.push(bytes::Bytes::copy_from_slice(chunk), 1 << 20).expect("valid"));
            }
            assert_eq!(out, expected, "{encoding} by {step}");
        }
    }

    #[test]
    fn what_was_packed_comes_out_as_it_was() {
        let text = b"data: {}\n\n".repeat(50);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&text).expect("memory");
        check("gzip", gzip.finish().expect("memory"), &text);
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        zlib.write_all(&text).expect("memory");
        check("deflate", zlib.finish().expect("memory"), &text);
        check("identity", text.clone(), &text);
    }

    #[test]
    fn what_unpacks_to_too_much_is_not_unpacked_whole() {
        let zeros = vec![0; 64 << 20];
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&zeros).expect("memory");
        let packed = gzip.finish().expect("memory");
        let mut decoder = Decoder::new(Some("gzip")).expect("known");
        let plain = decoder.push(packed.into(), 1 << 20).expect("valid");
        assert!(((1 << 20) + 1..8 << 20).contains(&plain.len()), "{}", plain.len());
    }

    #[test]
    fn other_encodings_are_named_and_broken_data_is_an_error() {
        assert_eq!(Decoder::new(Some("br")).err(), Some(UnknownEncoding("br".into())));
        let mut decoder = Decoder::new(Some("gzip")).expect("known");
        assert!(decoder.push(bytes::Bytes::from_static(b"<html>not gzip at all</html>"), 100).is_err());
    }
}
