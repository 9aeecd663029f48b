//! Listeners, and `[server] tls`.

use super::*;

fn tls(text: &str) -> Tls {
    good(&format!("{MINIMAL}[server]\n{text}\n"), &[]).server.tls
}

#[test]
fn tls_is_off_made_or_given_as_files() {
    assert_eq!(tls(""), Tls::Off);
    assert_eq!(tls("tls = \"off\""), Tls::Off);
    assert_eq!(tls("tls = \"auto\""), Tls::Auto);
    let files = Tls::Files { cert: "/etc/tls.crt".into(), key: "/srv/agents/tls.key".into() };
    assert_eq!(tls("tls = { cert = \"/etc/tls.crt\", key = \"tls.key\" }"), files);
    assert_eq!(tls("[server.tls]\ncert = \"/etc/tls.crt\"\nkey = \"./tls.key\""), files);
    let overridden = good(MINIMAL, &[("LONGSHORE__SERVER__TLS", "auto")]);
    assert_eq!(overridden.server.tls, Tls::Auto);
    let table = "{ cert = \"/etc/tls.crt\", key = \"tls.key\" }";
    assert_eq!(good(MINIMAL, &[("LONGSHORE__SERVER__TLS", table)]).server.tls, files);
}

#[test]
fn half_of_it_and_other_words_are_refused() {
    for (text, said) in [
        ("tls = \"on\"", "expected \"auto\", \"off\" or { cert = "),
        ("tls = true", "expected \"auto\", \"off\" or { cert = "),
        ("tls = { cert = \"a\" }", "expected both of `cert` and `key`"),
        ("tls = { cert = \"\", key = \"b\" }", "expected paths"),
        ("tls = { cert = \"a\", key = \"b\", ca = \"c\" }", "server.tls.ca: unknown key"),
    ] {
        let seen = complaints(&format!("{MINIMAL}[server]\n{text}\n"), &[]);
        assert!(seen.contains(said) && seen.lines().count() == 1, "{text}: {seen}");
    }
}

#[test]
fn an_api_for_others_is_no_mistake_of_the_file() {
    // Whether there are keys is known only when the store is open: `serve` refuses then.
    let settings = good(&format!("{MINIMAL}[server]\napi = \"0.0.0.0:7117\"\n"), &[]);
    assert!(settings.server.token.is_none() && !settings.server.allow_insecure);
}

#[test]
fn where_others_reach_the_link_is_an_address_without_a_path() {
    let read = |text: &str| good(&format!("{MINIMAL}[server]\n{text}\n"), &[]).server.link_url;
    assert_eq!(read(""), None);
    assert_eq!(
        read("link_url = \"https://longshore-1.longshore:7118/\"").as_deref(),
        Some("https://longshore-1.longshore:7118")
    );
    for (text, said) in [
        ("link_url = \"longshore-1:7118\"", "expected an address such as"),
        ("link_url = \"http://a/worker\"", "has a path"),
        ("link_url = \"http://u:p@a\"", "without a user or password"),
    ] {
        let seen = complaints(&format!("{MINIMAL}[server]\n{text}\n"), &[]);
        assert!(seen.contains(said) && seen.lines().count() == 1, "{text}: {seen}");
    }
}
