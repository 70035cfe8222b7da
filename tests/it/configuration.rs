//! Every value of the configuration can come from the environment, of a process of its own: one's variables are all tests'.

use tollgate::config::Config;

use crate::process::serve;

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
