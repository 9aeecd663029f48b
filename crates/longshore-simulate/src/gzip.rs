//! gzip without compressing: stored blocks, which every decoder takes.

const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
const BLOCK: usize = 65_535;

pub(crate) fn stored(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 64);
    out.extend_from_slice(&HEAD);
    for block in bytes.chunks(BLOCK) {
        put(&mut out, block, false);
    }
    put(&mut out, &[], true);
    out.extend_from_slice(&crc32(bytes).to_le_bytes());
    // The format keeps the length modulo 2^32.
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out
}

fn put(out: &mut Vec<u8>, block: &[u8], last: bool) {
    let length = block.len() as u16;
    out.push(u8::from(last));
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&(!length).to_le_bytes());
    out.extend_from_slice(block);
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |mut crc, byte| {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
        crc
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_standard_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_text_is_framed_as_one_block_and_an_empty_last_one() {
        let made = stored(b"hi");
        assert_eq!(
            &made[10..],
            [0, 2, 0, 0xfd, 0xff, b'h', b'i', 1, 0, 0, 0xff, 0xff, 0xac, 0x2a, 0x93, 0xd8, 2, 0, 0, 0]
        );
    }
}
