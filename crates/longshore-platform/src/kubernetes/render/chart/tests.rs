//! Charts are rendered by as much of Go's templates and Helm's functions as they use, and no more.

use std::collections::{BTreeMap, BTreeSet};

use super::super::tests::{CRAWL, PLANE, RICH, SMALL, declared, overlays};
use super::super::yaml::read_all;
use super::*;
use longshore_core::kubernetes::LOGINS;

const OVERLAYS: [(&str, &str); 2] = [("plane.yaml", PLANE), ("crawl.yaml", CRAWL)];

fn made(text: &str) -> BTreeMap<String, String> {
    made_with(text, &OVERLAYS)
}

fn made_with(text: &str, given: &[(&str, &str)]) -> BTreeMap<String, String> {
    let overlays = overlays(given);
    let declared = declared(text);
    let request = Request {
        declared: &declared,
        config: text,
        overlays: &overlays,
        version: "1.2.3",
        only: &[],
        prepull: true,
    };
    chart(&request).unwrap_or_else(|problems| panic!("{problems:?}")).into_iter().collect()
}

fn plain(text: &str, config: &str) -> Vec<Value> {
    let overlays = overlays(&OVERLAYS);
    let declared = declared(text);
    let request = Request {
        declared: &declared,
        config,
        overlays: &overlays,
        version: "1.2.3",
        only: &[],
        prepull: true,
    };
    let rendered = render(&request).unwrap_or_else(|problems| panic!("{problems:?}"));
    rendered.groups.into_iter().flat_map(|group| group.objects).collect()
}

fn one(text: &str) -> Value {
    read_all(text).expect("it reads").pop().expect("one document")
}

/// What Helm would apply.
fn installed(chart: &BTreeMap<String, String>, namespace: &str, values: &Value) -> Vec<Value> {
    let data = json!({ "Values": values, "Release": { "Namespace": namespace } });
    let templates = chart.iter().filter(|(path, _)| path.starts_with("templates/"));
    templates
        .flat_map(|(path, text)| {
            let yaml = evaluate(text, &data);
            read_all(&yaml).unwrap_or_else(|error| panic!("{path}: {error}\n{yaml}"))
        })
        .collect()
}

/// By name, and without what a chart adds: overrides of the control plane, and empty lists of Secrets to pull images with where
/// a file has none, which is the same to Kubernetes.
fn comparable(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let named = objects.into_iter().map(|mut object| {
        let name = object["metadata"]["name"].as_str().expect("named").to_owned();
        if name == CONTROL_PLANE && object["kind"] == "Deployment" {
            let variables = container(&mut object, CONTROL_PLANE)["env"].as_array_mut().expect("it has some");
            variables.retain(|one| {
                !one["name"].as_str().is_some_and(|name| name.starts_with("LONGSHORE__FLEET__"))
            });
        }
        without_logins(&mut object);
        if let Some(pod) = object.pointer_mut("/spec/template/spec").and_then(Value::as_object_mut) {
            pod.retain(|key, value| key != "imagePullSecrets" || !value.is_null());
        }
        (format!("{} {name}", object["kind"].as_str().expect("it has a kind")), object)
    });
    named.collect()
}

/// Takes the folder of logins away that a chart has even where there are none.
fn without_logins(object: &mut Value) {
    let Some(pod) = object.pointer_mut("/spec/template/spec") else { return };
    let is = |one: &Value| one["name"] == LOGINS_VOLUME;
    let volumes = pod["volumes"].as_array_mut().into_iter().flatten();
    if !volumes.filter(|volume| is(volume)).any(|volume| volume["projected"]["sources"] == json!([])) {
        return;
    }
    let mut drop_from = |at: &str, unwanted: &dyn Fn(&Value) -> bool| {
        pod.pointer_mut(at).and_then(Value::as_array_mut).expect("a list").retain(|one| !unwanted(one));
    };
    drop_from("/volumes", &is);
    drop_from("/containers/0/volumeMounts", &is);
    drop_from("/containers/0/env", &|one| one["name"] == LOGINS);
}

fn same(one: &BTreeMap<String, Value>, other: &BTreeMap<String, Value>) {
    assert!(one.keys().eq(other.keys()), "{:?} and {:?}", one.keys(), other.keys());
    for (name, object) in one {
        assert_eq!(print_one(object), print_one(&other[name]), "{name}");
    }
}

#[test]
fn with_its_own_values_a_chart_is_what_is_rendered() {
    for (text, namespace) in [(SMALL, "longshore"), (RICH, "agents")] {
        let chart = made(text);
        let installed = installed(&chart, namespace, &one(&chart["values.yaml"]));
        same(&comparable(installed), &comparable(plain(text, text)));
    }
}

#[test]
fn other_values_are_what_a_file_with_them_would_have_given() {
    let chart = made(RICH);
    let mut values = one(&chart["values.yaml"]);
    let mut set =
        |path: &str, value: Value| *values.pointer_mut(path).unwrap_or_else(|| panic!("no {path}")) = value;
    set("/kubernetes/replicas", 5.into());
    set("/kubernetes/secret", "other".into());
    set("/kubernetes/image_pull_secrets", json!([]));
    set("/fleet/chat/image", "acme/chat:3".into());
    set("/fleet/chat/scaling/max", 7.into());
    set("/fleet/plain/resources/memory_limit", "4Gi".into());
    let file = RICH
        .replace("replicas = 3", "replicas = 5")
        .replace("secret = \"keys\"", "secret = \"other\"")
        .replace("image_pull_secrets = [\"registry\", \"mirror\"]", "")
        .replace("acme/chat:2", "acme/chat:3")
        .replace("max = 40", "max = 7")
        .replace(
            "image = \"acme/plain:7\"",
            "image = \"acme/plain:7\"\nresources = { memory_limit = \"4Gi\" }",
        )
        .replace("namespace = \"agents\"", "namespace = \"123\"");
    let (chart, mut file) = (comparable(installed(&chart, "123", &values)), comparable(plain(&file, RICH)));
    let declaration = "/spec/template/metadata/annotations/longshore.dev~1declaration";
    for name in ["Deployment chat", "Deployment plain"] {
        assert_eq!(chart[name].pointer(declaration), None, "it follows none that the chart knows");
        let annotations = "/spec/template/metadata/annotations";
        let file = file.get_mut(name).and_then(|object| object.pointer_mut(annotations)).expect("annotated");
        file.as_object_mut().expect("a mapping").remove("longshore.dev/declaration");
    }
    same(&chart, &file);
}

#[test]
fn the_control_plane_is_told_the_values() {
    let chart = made(RICH);
    let mut values = one(&chart["values.yaml"]);
    values["fleet"]["chat"]["image"] = "acme/chat:3".into();
    values["fleet"]["chat"]["scaling"]["max"] = 7.into();
    let objects = installed(&chart, "agents", &values);
    let variables = overrides(&objects);
    assert_eq!(variables.len(), 3 * VALUES.len());
    let (settings, _) = longshore_core::settings::parse(RICH, "longshore.toml", &variables, "/")
        .expect("overrides that are taken");
    let chat = &settings.fleets[0];
    assert_eq!((chat.image().as_deref(), chat.scaling.max), (Some("acme/chat:3"), 7));
    let before = &declared(RICH).settings.fleets[0];
    assert_eq!(
        chat.container.as_ref().map(|it| it.resources),
        before.container.as_ref().map(|it| it.resources)
    );
}

#[test]
fn a_chart_is_as_helm_wants_it() {
    let chart = made(RICH);
    let description = one(&chart["Chart.yaml"]);
    for (key, value) in
        [("apiVersion", "v2"), ("name", "longshore"), ("version", "1.2.3"), ("type", "application")]
    {
        assert_eq!(description[key], value);
    }
    let values = one(&chart["values.yaml"]);
    let given: BTreeSet<String> = leaves(&values, ".Values");
    let templates: String = chart
        .iter()
        .filter(|(path, _)| path.starts_with("templates/"))
        .map(|(_, text)| text.as_str())
        .collect();
    let used: BTreeSet<String> = used(&templates);
    assert_eq!(given, used, "every value is used, and nothing else is");
    assert!(!templates.contains(EDGE), "a word was left");
}

#[test]
fn what_looks_like_a_template_in_a_file_is_none() {
    let text = format!("{SMALL}env = {{ A = \"{{{{ .Values.x }}}}\" }}\n");
    let chart = made(&text);
    let installed = installed(&chart, "longshore", &one(&chart["values.yaml"]));
    same(&comparable(installed), &comparable(plain(&text, &text)));
}

#[test]
fn a_fleet_whose_name_no_template_could_say_is_looked_up() {
    let text = SMALL.replace("fleet.research", "fleet.deep-research");
    let chart = made(&text);
    assert!(
        chart["templates/fleet-deep-research.yaml"].contains("(index .Values.fleet \"deep-research\").image")
    );
    let installed = installed(&chart, "longshore", &one(&chart["values.yaml"]));
    same(&comparable(installed), &comparable(plain(&text, &text)));
}

#[test]
fn a_size_is_written_as_both_kubernetes_and_the_control_plane_read_it() {
    let sized =
        |memory: &str| format!("{SMALL}resources = {{ memory = \"{memory}\", memory_limit = \"4GB\" }}\n");
    for (written, shown) in
        [("500MB", "500M"), ("1200kB", "1200k"), ("1500000Ki", "1500000Ki"), ("2000Ki", "2000Ki")]
    {
        let text = sized(written);
        let chart = made(&text);
        let values = one(&chart["values.yaml"]);
        assert_eq!(values["fleet"]["research"]["resources"]["memory"], shown);
        let objects = installed(&chart, "longshore", &values);
        let told =
            longshore_core::settings::parse(&text, "x", &overrides(&objects), "/").expect("it is taken");
        let memory = told.0.fleets[0].container.as_ref().map(|it| it.resources.memory);
        assert_eq!(
            memory,
            declared(&text).settings.fleets[0].container.as_ref().map(|it| it.resources.memory)
        );
    }
    let text = sized("123456789B");
    let declared = declared(&text);
    let overlays = BTreeMap::new();
    let request = Request {
        declared: &declared,
        config: &text,
        overlays: &overlays,
        version: "1.2.3",
        only: &[],
        prepull: false,
    };
    let problems = chart(&request).expect_err("no word for it");
    assert!(
        problems[0].to_string().starts_with("fleet.research.resources.memory: 123456789 bytes are no whole")
    );
}

#[test]
fn what_an_overlay_says_no_value_changes() {
    let by = |by: &str| {
        let text = format!(
            "{SMALL}scaling = {{ by = \"{by}\", min = 2, max = 20 }}\nkubernetes = {{ overlay = \"o.yaml\" }}\n"
        );
        text.replace("[kubernetes]", "[kubernetes]\noverlay = \"p.yaml\"")
    };
    let percent = "scaleDown: {policies: [{type: Percent, value: 10, periodSeconds: 60}]}";
    let hpa = format!("kind: HorizontalPodAutoscaler\nspec: {{minReplicas: 3, behavior: {{{percent}}}}}");
    let keda = "kind: ScaledObject\nspec: {minReplicaCount: 0, maxReplicaCount: 50}";
    for (kind, overlay) in [("hpa", hpa.as_str()), ("keda", keda)] {
        let plane = "kind: Deployment\nspec: {replicas: 4}";
        let text = by(kind);
        let chart = made_with(&text, &[("o.yaml", overlay), ("p.yaml", plane)]);
        let mut values = one(&chart["values.yaml"]);
        assert_eq!(values["kubernetes"].get("replicas"), None, "it would have no effect");
        values["fleet"]["research"]["scaling"]["max"] = 7.into();
        let objects = comparable(installed(&chart, "longshore", &values));
        assert_eq!(objects["Deployment longshore"]["spec"]["replicas"], 4);
        match kind {
            "hpa" => {
                let spec = &objects["HorizontalPodAutoscaler research"]["spec"];
                assert_eq!((&spec["minReplicas"], &spec["maxReplicas"]), (&json!(3), &json!(7)));
                assert_eq!(spec["behavior"]["scaleUp"]["policies"][0]["value"], 7);
                assert_eq!(spec["behavior"]["scaleDown"]["policies"][0]["value"], 10);
            }
            _ => {
                let spec = &objects["ScaledObject research"]["spec"];
                assert_eq!((&spec["minReplicaCount"], &spec["maxReplicaCount"]), (&json!(0), &json!(50)));
            }
        }
    }
}

#[test]
fn the_store_has_a_secret_of_its_own_where_a_value_says_so() {
    let bare = SMALL.split_once("[kubernetes]").expect("it has some").1;
    let text = format!("[kubernetes]{bare}");
    let chart = made(&text);
    let mut values = one(&chart["values.yaml"]);
    values["kubernetes"]["store_secret"] = "db".into();
    let of = |values: &Value| {
        let mut plane = comparable(installed(&chart, "longshore", values))["Deployment longshore"].clone();
        let variables = container(&mut plane, CONTROL_PLANE)["env"].as_array().expect("some").clone();
        let database = variables.into_iter().find(|it| it["name"] == "DATABASE_URL").expect("told");
        database.pointer("/valueFrom/secretKeyRef/name").cloned()
    };
    assert_eq!((of(&values), of(&one(&chart["values.yaml"]))), (Some("db".into()), Some("longshore".into())));
    // Of a file that names the database itself no such value would have an effect.
    let given =
        SMALL.replace("database_password = { env = \"DATABASE_PASSWORD\" }", "redis = \"redis://cache\"");
    assert_eq!(one(&made(&given)["values.yaml"])["kubernetes"].get("store_secret"), None);
}

#[test]
fn what_helm_holds_values_against_knows_each_of_them() {
    for text in [SMALL, RICH] {
        let chart = made(text);
        let schema: Value = serde_json::from_str(&chart["values.schema.json"]).expect("JSON");
        let values = one(&chart["values.yaml"]);
        fn known(value: &Value, schema: &Value, path: &str) {
            let Some(map) = value.as_object() else { return };
            // Values of a release before may have a fleet that is gone.
            let others = if path == ".fleet" { json!({ "type": "object" }) } else { false.into() };
            assert_eq!(schema["additionalProperties"], others, "{path}");
            for (key, value) in map {
                let schema = schema["properties"].get(key).unwrap_or_else(|| panic!("{path}.{key}"));
                known(value, schema, &format!("{path}.{key}"));
            }
        }
        known(&values, &schema, "");
    }
}

/// What the control plane is told beside the file.
fn overrides(objects: &[Value]) -> Vec<(String, String)> {
    let is = |it: &&Value| it["kind"] == "Deployment" && it["metadata"]["name"] == CONTROL_PLANE;
    let mut plane = objects.iter().find(is).expect("it is there").clone();
    let variables = container(&mut plane, CONTROL_PLANE)["env"].as_array().expect("it has some").clone();
    let told = variables
        .iter()
        .filter_map(|one| Some((one["name"].as_str()?.to_owned(), one["value"].as_str()?.to_owned())));
    told.filter(|(name, _)| name.starts_with("LONGSHORE__FLEET__")).collect()
}

/// The paths of all that is no mapping.
fn leaves(value: &Value, path: &str) -> BTreeSet<String> {
    match value.as_object() {
        Some(map) => map.iter().flat_map(|(key, value)| leaves(value, &format!("{path}.{key}"))).collect(),
        None => [path.to_owned()].into(),
    }
}

fn used(templates: &str) -> BTreeSet<String> {
    let from = |text: &str| {
        let end =
            text.find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '_')).unwrap_or(text.len());
        text[..end].to_owned()
    };
    templates.match_indices(".Values.").map(|(at, _)| from(&templates[at..])).collect()
}

fn evaluate(template: &str, data: &Value) -> String {
    let mut parts = Vec::new();
    let mut rest = template;
    while let Some((text, after)) = rest.split_once("{{") {
        let (action, after) = close(after);
        let text = if action.starts_with('-') { text.trim_end() } else { text };
        parts.push(Part::Text(text.to_owned()));
        parts.push(Part::Action(action.trim_start_matches('-').trim().to_owned()));
        rest = after;
    }
    parts.push(Part::Text(rest.to_owned()));
    let mut out = String::new();
    run(&parts, data, data, &mut out);
    out
}

#[derive(Clone)]
enum Part {
    Text(String),
    Action(String),
}

/// The action up to its end; a text in it may hold braces.
fn close(text: &str) -> (&str, &str) {
    let mut quoted = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '}' if !quoted && text[at..].starts_with("}}") => return (&text[..at], &text[at + 2..]),
            _ => {}
        }
    }
    panic!("an action does not end: {text}")
}

fn run(parts: &[Part], root: &Value, dot: &Value, out: &mut String) {
    let mut at = 0;
    while at < parts.len() {
        match &parts[at] {
            Part::Text(text) => out.push_str(text),
            Part::Action(action) if action.starts_with("if ") => {
                let find = |word: &str| {
                    (at..parts.len()).find(|at| matches!(&parts[*at], Part::Action(a) if a == word))
                };
                let end = find("end").expect("an if ends");
                let otherwise = find("else").filter(|other| *other < end).unwrap_or(end);
                match pipeline(&action["if ".len()..], root, dot) == json!(true) {
                    true => run(&parts[at + 1..otherwise], root, dot, out),
                    false => run(&parts[(otherwise + 1).min(end)..end], root, dot, out),
                }
                at = end;
            }
            Part::Action(action) => match action.strip_prefix("range ") {
                Some(list) => {
                    let end =
                        (at..parts.len()).find(|at| matches!(&parts[*at], Part::Action(a) if a == "end"));
                    let end = end.expect("a range ends");
                    for item in pipeline(list, root, dot).as_array().expect("a list") {
                        run(&parts[at + 1..end], root, item, out);
                    }
                    at = end;
                }
                None => out.push_str(&shown(&pipeline(action, root, dot))),
            },
        }
        at += 1;
    }
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn pipeline(text: &str, root: &Value, dot: &Value) -> Value {
    let mut piped = None;
    for command in split(text, '|') {
        let mut words = split(&command, ' ').into_iter();
        let first = words.next().expect("a command");
        let operands = words.map(|word| operand(&word, root, dot)).chain(piped.take());
        let operands: Vec<Value> = operands.collect();
        piped = Some(match operands.is_empty() && first.starts_with(['.', '(', '"']) {
            true => operand(&first, root, dot),
            false => call(&first, &operands),
        });
    }
    piped.expect("a pipeline has a command")
}

/// Parts between separators that stand in no text and in no parentheses.
fn split(text: &str, separator: char) -> Vec<String> {
    let (mut parts, mut depth, mut quoted) = (vec![String::new()], 0, false);
    for c in text.trim().chars() {
        match c {
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth -= 1,
            _ => {}
        }
        match c == separator && depth == 0 && !quoted {
            true => parts.push(String::new()),
            false => parts.last_mut().expect("one at least").push(c),
        }
    }
    parts.into_iter().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

fn operand(word: &str, root: &Value, dot: &Value) -> Value {
    if word == "." {
        return dot.clone();
    }
    if let Some(text) = word.strip_prefix('"') {
        return text.strip_suffix('"').expect("a text ends").into();
    }
    if let Ok(number) = word.parse::<i64>() {
        return number.into();
    }
    if let Some(inner) = word.strip_prefix('(') {
        let end = inner.rfind(')').expect("a parenthesis ends");
        return field(pipeline(&inner[..end], root, dot), &inner[end + 1..]);
    }
    assert!(word.starts_with('.'), "not known: {word}");
    field(root.clone(), word)
}

fn field(value: Value, path: &str) -> Value {
    path.split('.').filter(|key| !key.is_empty()).fold(value, |value, key| {
        value.get(key).unwrap_or_else(|| panic!("there is no `{key}` in {path}")).clone()
    })
}

fn call(function: &str, operands: &[Value]) -> Value {
    match (function, operands) {
        ("quote", [value]) => json!(shown(value)).to_string().into(),
        ("int", [value]) => value.as_i64().expect("a whole number").into(),
        ("max", [one, other]) => one.as_i64().max(other.as_i64()).into(),
        ("index", [map, key]) => map[key.as_str().expect("a name")].clone(),
        ("list", items) => items.to_vec().into(),
        ("join", [with, list]) => {
            let parts: Vec<String> = list.as_array().expect("a list").iter().map(shown).collect();
            parts.join(with.as_str().expect("a text")).into()
        }
        ("eq", [one, other]) => (one == other).into(),
        ("default", [otherwise, given]) => if given == "" { otherwise } else { given }.clone(),
        _ => panic!("not known: {function} with {} operands", operands.len()),
    }
}
