//! The client of the control plane that the arguments name.

use longshore_api::client::Client;

use crate::cli::Remote;
use crate::error::{Fault, Outcome};

/// Where a control plane of this machine listens unless told otherwise.
pub const DEFAULT_SERVER: &str = "http://127.0.0.1:7117";

impl Remote {
    pub fn client(&self) -> Outcome<Client> {
        // A variable that is set to nothing is as good as none.
        let server = Some(self.server.trim()).filter(|server| !server.is_empty()).unwrap_or(DEFAULT_SERVER);
        if !server.starts_with("http://") && !server.starts_with("https://") {
            return Err(Fault::usage(format!("`{server}` is not the address of a control plane"))
                .hint("give it as --server http://HOST:PORT"));
        }
        let token = self.token.as_deref().map(str::trim).filter(|token| !token.is_empty());
        let trust = self.ca.as_ref().and_then(|ca| ca.0.as_ref());
        Client::trusting(server, token.map(ToOwned::to_owned), trust)
            .map_err(|error| Fault::new("could not set up the HTTP client").cause(&error))
    }
}
