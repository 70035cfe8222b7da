//! What a start makes of its settings, in processes of their own: one's variables are all tests'.

use tollgate::config::Config;

use crate::process::serve;

#[test]
fn a_setting_that_can_not_be_used_stops_the_start_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("none.db");
    let start = || serve(&format!("sqlite://{}", file.display()));
    let keyless = folder.path().join("keyless.toml");
    let provider = "[[providers]]\nname = \"own\"\nkind = \"openai\"\nbase_url = \"http://up\"\napi_key_env = \"UNSET_KEY\"\n";
    std::fs::write(&keyless, provider).unwrap();
    let (mut filter, mut level, mut shards, mut idle) = (start(), start(), start(), start());
    let (mut key, mut misspelt) = (start(), start());
    let misspelt_name = "TOLLGATE_".to_owned() + "LISTN";
    filter.env("TOLLGATE_LOG", "tollgate=debugg");
    level.env("TOLLGATE_LOG", "info,[");
    shards.args(["--shards", "8"]);
    idle.env("TOLLGATE_IDLE_CONNECTION_SECONDS", "9223372036854775807");
    key.arg("--config").arg(&keyless);
    misspelt.args(["--shards", "8"]).env(&misspelt_name, "127.0.0.1:0");

    for (command, setting) in [
        (&mut filter, "TOLLGATE_LOG"),
        (&mut level, "TOLLGATE_LOG"),
        (&mut shards, "--shards"),
        (&mut idle, "idle_connection_seconds"),
        (&mut key, "UNSET_KEY"),
        (&mut misspelt, &misspelt_name),
    ] {
        let run = command.output().unwrap();

        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        assert!(!run.status.success() && said.contains(setting), "{setting}: {said}");
    }
    assert!(!file.exists(), "nothing was made for a start that failed");
}

#[test]
fn every_value_can_come_from_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("none.db").display());
    let values = serde_json::to_value(Config::default()).unwrap();
    let names = values.as_object().unwrap().keys().filter(|name| *name != "operator_key");
    let mut tried = 0;

    for name in names {
        let mut command = serve(&url);
        // No value is such a list.
        command.env(format!("TOLLGATE_{}", name.to_uppercase()), "[[7]]");
        let run = command.output().unwrap();

        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        assert!(!run.status.success(), "{name} was not read: {said}");
        assert!(said.to_lowercase().contains(name), "{name} is not named: {said}");
        tried += 1;
    }

    assert!(tried > 10, "{values}");
}
