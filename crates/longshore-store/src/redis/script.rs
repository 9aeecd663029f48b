//! Scripts, by their hash where Redis knows them.

use ::redis::{Cmd, Script, cmd};

/// One Lua script. Every key it touches is among its keys, so that a cluster finds the node.
pub(crate) struct Lua {
    text: String,
    hash: String,
}

impl Lua {
    pub(crate) fn new(text: impl Into<String>) -> Lua {
        let text = text.into();
        let hash = Script::new(&text).get_hash().to_owned();
        Lua { text, hash }
    }

    pub(super) fn by_hash(&self, keys: &[&str], arguments: &[&[u8]]) -> Cmd {
        invoke("EVALSHA", &self.hash, keys, arguments)
    }

    /// Loads it by running it: `SCRIPT LOAD` would be one more command to allow, and one more round trip.
    pub(super) fn by_text(&self, keys: &[&str], arguments: &[&[u8]]) -> Cmd {
        invoke("EVAL", &self.text, keys, arguments)
    }
}

fn invoke(command: &str, script: &str, keys: &[&str], arguments: &[&[u8]]) -> Cmd {
    let mut command = cmd(command);
    command.arg(script).arg(keys.len()).arg(keys).arg(arguments);
    command
}
