// Runs pytest under the CPython of Pyodide: `node newest.mjs CHECKOUT SITE PYODIDE WORDS...`.
// SITE is a folder of packages without native code that come before those of the checkout's .venv.
const [root, site, pyodide, ...words] = process.argv.slice(2);
const { loadPyodide } = await import(pyodide);
const python = await loadPyodide();
python.mountNodeFS("/convoca", root);
python.mountNodeFS("/site", site);
const status = await python.runPythonAsync(`
import glob, os, sys
print(sys.version, flush=True)
os.environ |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "CONVOCA_BRIEF": "1"}
sys.dont_write_bytecode = True
sys.path[:0] = ["/convoca", "/site", *glob.glob("/convoca/.venv/lib/python*/site-packages")]
os.chdir("/convoca")
import pytest
int(pytest.main(${JSON.stringify(words)}))
`);
process.exit(status);
