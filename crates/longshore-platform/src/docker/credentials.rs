//! A login as the engine is told it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bollard::auth::DockerCredentials;
use longshore_core::container::Image;

use crate::registry::{Login, Secret, login};

/// Who the engine is to be at this image's registry; `None`: nobody logged in there.
///
/// Errors: in words, what keeps it from being known or told.
pub(super) async fn of(image: &Image) -> Result<Option<DockerCredentials>, String> {
    let Some(login) = login(image).await? else { return Ok(None) };
    let credentials = credentials(login);
    match travels(&credentials) {
        true => Ok(Some(credentials)),
        false => Err(format!(
            "what `docker login` kept for `{}` cannot be sent: of `?`, `>`, `~` and letters beyond ASCII in a password some do not arrive",
            image.registry()
        )),
    }
}

fn credentials(login: Login) -> DockerCredentials {
    let told = DockerCredentials { serveraddress: Some(login.server), ..Default::default() };
    match login.secret {
        Secret::Password { user, password } => {
            DockerCredentials { username: Some(user), password: Some(password), ..told }
        }
        Secret::Identity(token) => DockerCredentials { identitytoken: Some(token), ..told },
        Secret::Registry(token) => DockerCredentials { registrytoken: Some(token), ..told },
    }
}

/// Whether the engine understands them: it wants letters of base64 that are safe in addresses, the client sends the others,
/// and what it cannot read it takes for nobody.
fn travels(credentials: &DockerCredentials) -> bool {
    let sent = serde_json::to_string(credentials).map(|text| STANDARD.encode(text)).unwrap_or_default();
    !sent.contains(['+', '/'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_arrive_as_nobody_is_known() {
        let of = |user: String, password: &str| {
            let secret = Secret::Password { user, password: password.to_owned() };
            credentials(Login { server: "r.io".into(), secret })
        };
        assert!(travels(&of("me".into(), "secret")));
        let lost = (0..3).filter(|pad| !travels(&of("m".repeat(1 + pad), "?"))).count();
        assert_eq!(lost, 1, "it depends on where the letter stands");
    }
}
