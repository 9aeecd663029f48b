//! Reads tar archives as a stream: headers, long names, pax records, contents. Trusts nothing in them.
//!
//! Its own reader, since layers come from strangers: memory is bounded whatever a header claims, and what is odd is an
//! error that says what, at which byte.

use std::io::{self, Read};

use crate::limits::Limits;

const BLOCK: usize = 512;

#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error("the archive breaks off")]
    Cut,
    #[error("the header at byte {at} is damaged: {why}")]
    Header { at: u64, why: &'static str },
    #[error("a header of {size} bytes is longer than the {limit} that are read")]
    HeaderTooLong { size: u64, limit: u64 },
    #[error(transparent)]
    Read(io::Error),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    HardLink,
    SymLink,
    Folder,
    Device,
    Fifo,
    Other(u8),
}

/// One entry, without its contents.
#[derive(Clone, Debug)]
pub struct Entry {
    /// As it is written in the archive.
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub kind: Kind,
    pub mode: u32,
    pub uid: u64,
    pub size: u64,
    /// It has file capabilities (`security.capability`).
    pub capabilities: bool,
}

pub struct Tar<R> {
    from: R,
    at: u64,
    /// Bytes of the last entry that were not read, and its padding.
    left: u64,
    padding: u64,
    limits: Limits,
}

impl<R: Read> Tar<R> {
    pub fn new(from: R, limits: Limits) -> Tar<R> {
        Tar { from, at: 0, left: 0, padding: 0, limits }
    }

    /// The next entry; what was not read of the one before is passed over. `None` at the archive's end.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extra = Extra::default();
        loop {
            self.skip_rest()?;
            let at = self.at;
            let Some(block) = self.block()? else { return Ok(None) };
            if block.iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            check_sum(&block).ok_or(TarError::Header { at, why: "its checksum is wrong" })?;
            let number = |range: std::ops::Range<usize>, why| {
                number(&block[range]).ok_or(TarError::Header { at, why })
            };
            let size = number(124..136, "its size is no number")?;
            self.left = size;
            self.padding = size.next_multiple_of(BLOCK as u64) - size;
            match block[156] {
                b'L' => extra.path = Some(trimmed(self.header_text(size)?)),
                b'K' => extra.link = Some(trimmed(self.header_text(size)?)),
                b'x' => {
                    let text = self.header_text(size)?;
                    extra.pax(&text).ok_or(TarError::Header { at, why: "its pax records are damaged" })?;
                }
                // Global records: tools write the commit there, nothing that an entry needs.
                b'g' => {
                    self.header_text(size)?;
                }
                kind => {
                    let mode = number(100..108, "its mode is no number")? as u32;
                    let uid = number(108..116, "its user is no number")?;
                    if let Some(size) = extra.size {
                        self.left = size;
                        self.padding = size.next_multiple_of(BLOCK as u64) - size;
                    }
                    let kind = kind_of(kind);
                    // Links and folders have no contents, whatever their header says; some tools write a size there.
                    if matches!(
                        kind,
                        Kind::HardLink | Kind::SymLink | Kind::Folder | Kind::Device | Kind::Fifo
                    ) {
                        (self.left, self.padding) = (0, 0);
                    }
                    return Ok(Some(Entry {
                        path: extra.path.unwrap_or_else(|| name(&block)),
                        link: extra.link.unwrap_or_else(|| until_zero(&block[157..257]).to_vec()),
                        kind,
                        mode,
                        uid: extra.uid.unwrap_or(uid),
                        size: self.left,
                        capabilities: extra.capabilities,
                    }));
                }
            }
        }
    }

    /// Reads on in the contents of the entry that `next_entry` gave; 0 at their end.
    pub fn read(&mut self, into: &mut [u8]) -> Result<usize, TarError> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        if most == 0 {
            return Ok(0);
        }
        match self.from.read(&mut into[..most]) {
            Ok(0) => Err(TarError::Cut),
            Ok(read) => {
                self.left -= read as u64;
                self.at += read as u64;
                Ok(read)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.read(into),
            Err(error) => Err(of_read(error)),
        }
    }

    /// Passes over the rest of the archive, so that all of it was seen by whoever hashes it below.
    pub fn finish(mut self) -> Result<(), TarError> {
        io::copy(&mut self.from, &mut io::sink()).map_err(of_read)?;
        Ok(())
    }

    fn skip_rest(&mut self) -> Result<(), TarError> {
        let mut bin = [0; 16 << 10];
        self.left = self.left.checked_add(self.padding).ok_or(TarError::Cut)?;
        self.padding = 0;
        while self.left > 0 {
            self.read(&mut bin)?;
        }
        Ok(())
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.from.read(&mut block[filled..]) {
                // Archives without their two closing blocks are common and whole.
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(TarError::Cut),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(of_read(error)),
            }
        }
        self.at += BLOCK as u64;
        Ok(Some(block))
    }

    fn header_text(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > self.limits.header {
            return Err(TarError::HeaderTooLong { size, limit: self.limits.header });
        }
        let mut text = vec![0; size as usize];
        let mut filled = 0;
        while filled < text.len() {
            filled += self.read(&mut text[filled..])?;
        }
        Ok(text)
    }
}

impl<R: Read> Read for Tar<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Tar::read(self, into).map_err(|error| match error {
            TarError::Read(error) => error,
            error => io::Error::new(io::ErrorKind::InvalidData, error),
        })
    }
}

/// What headers before the entry's own say of it.
#[derive(Default)]
struct Extra {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    capabilities: bool,
}

impl Extra {
    /// Records are `LENGTH KEY=VALUE\n`, the length counting all of it.
    fn pax(&mut self, mut text: &[u8]) -> Option<()> {
        while !text.is_empty() {
            let space = text.iter().position(|byte| *byte == b' ')?;
            let length: usize = std::str::from_utf8(&text[..space]).ok()?.parse().ok()?;
            let record = text.get(space + 1..length)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|byte| *byte == b'=')?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            let digits = || std::str::from_utf8(value).ok()?.parse::<u64>().ok();
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(digits()?),
                b"uid" => self.uid = Some(digits()?),
                b"SCHILY.xattr.security.capability" => self.capabilities = true,
                _ => {}
            }
            text = &text[length..];
        }
        Some(())
    }
}

fn kind_of(byte: u8) -> Kind {
    match byte {
        0 | b'0' | b'7' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::SymLink,
        b'3' | b'4' => Kind::Device,
        b'5' => Kind::Folder,
        b'6' => Kind::Fifo,
        other => Kind::Other(other),
    }
}

/// The sum of all bytes, those of the sum itself taken as spaces; some old tools added them as signed.
fn check_sum(block: &[u8; BLOCK]) -> Option<()> {
    let told = number(&block[148..156])?;
    let bytes =
        || block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { b' ' } else { *byte });
    let plain: u64 = bytes().map(u64::from).sum();
    let signed: i64 = bytes().map(|byte| i64::from(byte as i8)).sum();
    (told == plain || i64::try_from(told) == Ok(signed)).then_some(())
}

/// Octal digits, or, for what needs more, a big-endian number behind a set top bit.
fn number(field: &[u8]) -> Option<u64> {
    if field.first()? & 0x80 != 0 {
        let mut value: u64 = u64::from(field[0] & 0x7f);
        for byte in &field[1..] {
            value = value.checked_mul(256)?.checked_add(u64::from(*byte))?;
        }
        // A size that nothing has: it would make sums overflow.
        return (value < 1 << 62).then_some(value);
    }
    let digits = std::str::from_utf8(until_zero(field)).ok()?.trim_matches(' ');
    if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
}

fn name(block: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_zero(&block[..100]);
    let prefix = until_zero(&block[345..500]);
    if &block[257..263] == b"ustar\0" && !prefix.is_empty() {
        [prefix, b"/", name].concat()
    } else {
        name.to_vec()
    }
}

fn until_zero(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn trimmed(mut text: Vec<u8>) -> Vec<u8> {
    text.truncate(until_zero(&text).len());
    text
}

/// A tar error that came through a reader between is told as itself.
fn of_read(error: io::Error) -> TarError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => TarError::Cut,
        _ => TarError::Read(error),
    }
}

#[cfg(test)]
pub mod make {
    //! Archives for tests, honest ones and others.

    /// One header and its contents, padded.
    pub fn entry(path: &str, kind: u8, mode: u32, link: &str, contents: &[u8]) -> Vec<u8> {
        let mut out = header(path, kind, mode, 0, link, contents.len() as u64);
        out.extend_from_slice(contents);
        out.resize(out.len().next_multiple_of(512), 0);
        out
    }

    pub fn header(path: &str, kind: u8, mode: u32, uid: u32, link: &str, size: u64) -> Vec<u8> {
        let mut block = vec![0; 512];
        block[..path.len()].copy_from_slice(path.as_bytes());
        block[100..107].copy_from_slice(format!("{mode:07o}").as_bytes());
        block[108..115].copy_from_slice(format!("{uid:07o}").as_bytes());
        block[116..123].copy_from_slice(b"0000000");
        block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        block[136..147].copy_from_slice(b"00000000000");
        block[156] = kind;
        block[157..157 + link.len()].copy_from_slice(link.as_bytes());
        block[257..263].copy_from_slice(b"ustar\0");
        block[263..265].copy_from_slice(b"00");
        seal(&mut block);
        block
    }

    pub fn seal(block: &mut [u8]) {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    }

    pub fn file(path: &str, contents: impl AsRef<[u8]>) -> Vec<u8> {
        entry(path, b'0', 0o644, "", contents.as_ref())
    }

    pub fn folder(path: &str, mode: u32) -> Vec<u8> {
        entry(path, b'5', mode, "", b"")
    }

    pub fn pax(records: &[(&str, &str)]) -> Vec<u8> {
        let mut text = String::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            text.push_str(&format!("{length} {key}={value}\n"));
        }
        entry("pax", b'x', 0o644, "", text.as_bytes())
    }

    pub fn archive(parts: &[Vec<u8>]) -> Vec<u8> {
        let mut out = parts.concat();
        out.resize(out.len() + 1024, 0);
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::make::{archive, entry, file, header, pax, seal};
    use super::*;

    fn list(bytes: &[u8]) -> Result<Vec<(String, u64)>, TarError> {
        let mut tar = Tar::new(bytes, Limits { header: 4096, ..Limits::default() });
        let mut seen = Vec::new();
        while let Some(entry) = tar.next_entry()? {
            let mut contents = Vec::new();
            io::Read::read_to_end(&mut tar, &mut contents).map_err(TarError::Read)?;
            seen.push((String::from_utf8_lossy(&entry.path).into_owned(), contents.len() as u64));
        }
        Ok(seen)
    }

    #[test]
    fn names_of_all_kinds_are_read() {
        let long = "d/".repeat(80) + "f";
        let bytes = archive(&[
            file("a", "x"),
            entry("././@LongLink", b'L', 0, "", format!("{long}\0").as_bytes()),
            file("cut", "yy"),
            pax(&[("path", "ö/pax"), ("mtime", "1.5")]),
            file("other", ""),
        ]);
        assert_eq!(list(&bytes).expect("whole"), [("a".into(), 1), (long, 2), ("ö/pax".into(), 0)]);
    }

    #[test]
    fn an_archive_that_breaks_off_says_so() {
        let bytes = archive(&[file("a", [7; 2000])]);
        for cut in [100, 512, 1000, 2511] {
            let error = list(&bytes[..cut]).expect_err("cut");
            assert!(error.to_string().contains("breaks off"), "{cut}: {error}");
        }
    }

    #[test]
    fn damaged_headers_are_named_by_their_place() {
        let mut bytes = archive(&[file("a", "x"), file("b", "y")]);
        bytes[1024] ^= 1;
        assert_eq!(
            list(&bytes).expect_err("damaged").to_string(),
            "the header at byte 1024 is damaged: its checksum is wrong"
        );
        let mut block = header("a", b'0', 0o644, 0, "", 0);
        block[124..135].copy_from_slice(b"zzzzzzzzzzz");
        seal(&mut block);
        assert!(list(&block).expect_err("damaged").to_string().contains("its size is no number"));
    }

    #[test]
    fn a_header_of_a_gigabyte_is_refused_without_reading_it() {
        for kind in [b'L', b'K', b'x', b'g'] {
            let error = list(&header("a", kind, 0, 0, "", 1 << 30)).expect_err("too long");
            assert!(matches!(error, TarError::HeaderTooLong { size, .. } if size == 1 << 30), "{error}");
        }
    }

    #[test]
    fn a_size_beyond_all_bounds_does_not_overflow() {
        for fill in [0xff, 0x7f] {
            let mut block = header("a", b'0', 0o644, 0, "", 0);
            block[124..136].fill(fill);
            block[124] = 0x80;
            seal(&mut block);
            list(&block).expect_err("no such size");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..2048), seals in any::<bool>()) {
            if seals && bytes.len() >= 512 {
                seal(&mut bytes[..512]);
            }
            let _ = list(&bytes);
        }
    }
}
