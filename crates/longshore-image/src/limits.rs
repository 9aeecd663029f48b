//! How much of an image is read. What is beyond is a finding, never a crash and never an endless wait.

/// Bounds of one reading; the default is right for images of any honest size.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the whole archive and of all layers, unpacked.
    pub total: u64,
    /// Files and folders over all layers.
    pub entries: u64,
    /// Unpacked bytes for one packed byte, once a layer has unpacked to more than `expansion_from`.
    pub expansion: u64,
    pub expansion_from: u64,
    /// Bytes of a JSON document of the archive (manifest, configuration).
    pub document: u64,
    /// Bytes of one header that extends another: a long name, pax records.
    pub header: u64,
    /// Bytes of one text file that is read line by line.
    pub text: u64,
    /// Findings that are kept for one layer.
    pub findings: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            total: 64 << 30,
            entries: 4_000_000,
            // Deflate packs zeros about a thousandfold; real layers stay below twenty.
            expansion: 200,
            expansion_from: 256 << 20,
            document: 8 << 20,
            header: 1 << 20,
            text: 1 << 20,
            findings: 1_000,
        }
    }
}
