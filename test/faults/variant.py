"""Other builds of pgjobs, each in a tree of its own, in a server that nothing else uses."""

import os
import subprocess

from server import ROOT


def install(name, flags):
    """Builds the tree's copy build/NAME with these flags of the compiler and installs it into the
    server of tools/build-server, which later runs of this process use."""
    server = subprocess.run([os.path.join(ROOT, "tools/build-server"), "plain"], check=True,
                            stdout=subprocess.PIPE, text=True).stdout.strip()
    os.environ["PG_CONFIG"] = server
    os.environ.setdefault("PG_MAJOR", "15")
    subprocess.run([os.path.join(ROOT, "tools/variant"), name], check=True)
    subprocess.run(["tools/install-extension"], check=True, cwd=os.path.join(ROOT, "build", name),
                   env={**os.environ, "PGJOBS_CXXFLAGS": flags}, stderr=subprocess.DEVNULL)
