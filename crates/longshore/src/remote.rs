//! The client of the control plane that the arguments name.

use longshore_api::client::Client;

use crate::cli::Remote;
use crate::error::{Fault, Outcome};

impl Remote {
    pub fn client(&self) -> Outcome<Client> {
        let server = self.server.trim();
        if !server.starts_with("http://") && !server.starts_with("https://") {
            return Err(Fault::usage(format!("`{server}` is not the address of a control plane"))
                .hint("give it as --server http://HOST:PORT"));
        }
        let token = self.token.as_deref().map(str::trim).filter(|token| !token.is_empty());
        Client::new(server, token.map(ToOwned::to_owned))
            .map_err(|error| Fault::new("could not set up the HTTP client").cause(&error))
    }
}
