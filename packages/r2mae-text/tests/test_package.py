from importlib.metadata import entry_points, version


def test_the_placeholder_imports_documents_itself_and_offers_no_command():
    import r2mae_text

    assert "placeholder" in r2mae_text.__doc__
    assert version("r2mae-text") == version("r2mae-core")
    assert not [script for script in entry_points(group="console_scripts") if script.name == "r2mae-text"]
