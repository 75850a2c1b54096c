// Runs pytest under the CPython of Pyodide: `node newest.mjs CHECKOUT SITE PYODIDE WORDS...`.
// SITE is a folder of packages without native code that come before those of the checkout's .venv.
//
// There are no processes, sockets or threads: a test that reaches for one is skipped there, and the
// summary says of how many that is true. The only loop is the browser's, which cannot be run to an
// end from Python; so tests get asyncio's own with a selector that only sleeps.
const [root, site, pyodide, ...words] = process.argv.slice(2);
const { loadPyodide } = await import(pyodide);
const python = await loadPyodide();
python.mountNodeFS("/convoca", root);
python.mountNodeFS("/site", site);
const status = python.runPython(`
import asyncio, glob, os, subprocess, sys, threading, time, warnings
print(sys.version, flush=True)
os.environ |= {
    "CONVOCA_BRIEF": "1",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "PYTEST_PLUGINS": "pytest_asyncio.plugin,_hypothesis_pytestplugin,"
    "crdt.testing.pytest_plugin,replication.testing.pytest_plugin",
}

def lacking(what):
    def reached_for(*_, **__):
        pytest.skip(f"no {what} here", allow_module_level=True)
    return reached_for

class Loop(asyncio.BaseEventLoop):
    create_connection = create_server = lacking("sockets")
    subprocess_exec = subprocess_shell = lacking("processes")

    class _selector:
        @staticmethod
        def select(timeout):
            if timeout:
                time.sleep(timeout)

    def _process_events(self, events):
        pass

    def _write_to_self(self):
        pass

warnings.simplefilter("ignore", DeprecationWarning)
class Policy(asyncio.events._BaseDefaultEventLoopPolicy):
    _loop_factory = Loop

asyncio.set_event_loop_policy(Policy())
asyncio._set_running_loop(None)
sys.dont_write_bytecode = True
sys.path[:0] = ["/convoca", "/site", *glob.glob("/convoca/.venv/lib/python*/site-packages")]
os.chdir("/convoca")
import pytest
threading.Thread.start = lacking("threads")
subprocess.Popen.__init__ = lacking("processes")
asyncio.SelectorEventLoop = lacking("loops of sockets")
os.geteuid = os.getuid
int(pytest.main(${JSON.stringify(words)}))
`);
process.exit(status);
