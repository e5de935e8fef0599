"""Configuration files of one Neutron API server that runs with Flowloom, without Keystone and RabbitMQ.

    deployment = write_config(
        directory,                                        # created; holds configuration, state and logs
        database="sqlite+immediate:////run/x/neutron.sqlite",
        store="sqlite:////run/x/store/northbound.sqlite",
        bus="zmq+ipc:///run/x/bus",                       # "" = none
        api_port=9696, name="lab", control=directory / "recovery.sock", workers=2, threads=2,
    )
    create_schema(deployment.database)                    # flowloom.neutron.schema; SQLite only
    subprocess.Popen(deployment.uwsgi_argv, env=os.environ | deployment.env)      # the API server
    subprocess.Popen(deployment.recovery_argv, env=os.environ | deployment.env)   # `flowloom recovery`

uwsgi stays in the foreground and writes to `deployment.api_log`; SIGTERM to it ends its workers too.
The API answers at `deployment.api_url` a few seconds after the start (poll `GET /v2.0/networks`).

As a command, for who does not know this package: `python -m flowloom.neutron.deploy JSON` takes the arguments
of `write_config` as one JSON object and prints the deployment as another.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SERVICE_PLUGINS = ("tag", "revisions", "timestamp")
EXTENSION_DRIVERS = ("port_security",)
"""Without `dns`: its API extension requires the `router` extension, which comes with routers."""

UNWIRED_SERVICE_PLUGINS = ("flowloom-l3", "flowloom-port-forwarding", "trunk", "qos", "segments")
UNWIRED_EXTENSION_DRIVERS = ("qos", "dns")
"""What is captured though nothing wires it yet; see `announce_unwired`."""


@dataclass(frozen=True)
class Deployment:
    """Where everything of one Neutron server is, and how to start its processes."""

    directory: Path
    database: str
    neutron_conf: Path
    api_url: str
    api_log: Path
    control: Path
    env: dict[str, str]
    uwsgi_argv: tuple[str, ...]
    recovery_argv: tuple[str, ...]


def write_config(
    directory: Path,
    *,
    database: str,
    store: str,
    bus: str,
    api_port: int,
    name: str,
    control: Path | None = None,
    workers: int = 2,
    threads: int = 2,
    address: str = "127.0.0.1",
    dns_domain: str = "flowloom.test.",
    strict_capture: bool = False,
    metrics: str = "",
    announce_unwired: bool = False,
    service_plugins: Sequence[str] = SERVICE_PLUGINS,
    extension_drivers: Sequence[str] = EXTENSION_DRIVERS,
) -> Deployment:
    """Write neutron.conf, api-paste.ini and uwsgi.ini into `directory`; repeating it writes them again.

    name: the deployment's (first part of the store's keys).  control: the recovery process's socket,
    `directory/recovery.sock` unless given.  metrics: see the option of that name; "": none.
    announce_unwired: see the option of that name; `service_plugins` and `extension_drivers` may then name what is in
    `UNWIRED_SERVICE_PLUGINS` and `UNWIRED_EXTENSION_DRIVERS`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    control = control or directory / "recovery.sock"
    conf, log = directory / "neutron.conf", directory / "neutron-api.log"
    paste = directory / "api-paste.ini"
    paste.write_text(_PASTE)
    conf.write_text(
        _NEUTRON_CONF.format(
            paste=paste,
            state=directory / "state",
            lock=directory / "lock",
            dns_domain=dns_domain,
            service_plugins=",".join(service_plugins),
            extension_drivers=",".join(extension_drivers),
            database=database,
            deployment=name,
            store=store,
            bus=bus,
            control=control,
            strict_capture=strict_capture,
            announce_unwired=announce_unwired,
            metrics=metrics,
        )
    )
    uwsgi = directory / "uwsgi.ini"
    uwsgi.write_text(_UWSGI.format(address=address, port=api_port, workers=workers, threads=threads, log=log))
    programs = Path(sys.executable).parent
    return Deployment(
        directory=directory,
        database=database,
        neutron_conf=conf,
        api_url=f"http://{address}:{api_port}",
        api_log=log,
        control=control,
        env={"OS_NEUTRON_CONFIG_DIR": str(directory), "OS_NEUTRON_CONFIG_FILES": conf.name},
        uwsgi_argv=(str(programs / "uwsgi"), "--ini", str(uwsgi)),
        recovery_argv=(sys.executable, "-m", "flowloom", "recovery", "--config-file", str(conf)),
    )


# DHCP agents are off: every node answers for its own ports.
_NEUTRON_CONF = """\
[DEFAULT]
auth_strategy = noauth
core_plugin = ml2
service_plugins = {service_plugins}
api_paste_config = {paste}
state_path = {state}
transport_url = fake://
rpc_workers = 0
rpc_state_report_workers = 0
enable_traditional_dhcp = False
dhcp_agent_notification = False
notify_nova_on_port_status_changes = False
notify_nova_on_port_data_changes = False
dns_domain = {dns_domain}
default_log_levels = sqlalchemy=WARN,stevedore=CRITICAL,neutron.api.extensions=ERROR,neutron.plugins.ml2.managers=WARN

[database]
connection = {database}

[oslo_concurrency]
lock_path = {lock}

[oslo_messaging_notifications]
driver = noop

[quotas]
default_quota = -1
quota_network = -1
quota_subnet = -1
quota_port = -1

[ml2]
type_drivers = geneve
project_network_types = geneve
mechanism_drivers = flowloom
extension_drivers = {extension_drivers}

[ml2_type_geneve]
vni_ranges = 1:16000
max_header_size = 38

[flowloom]
deployment = {deployment}
store = {store}
bus = {bus}
control = {control}
strict_capture = {strict_capture}
announce_unwired = {announce_unwired}
metrics = {metrics}
"""

_PASTE = """\
[composite:neutron]
use = egg:Paste#urlmap
/: versions
/v2.0: api

[composite:versions]
use = call:neutron.auth:pipeline_factory
noauth = proxy version_list

[composite:api]
use = call:neutron.auth:pipeline_factory
noauth = proxy request_id everybody_is_admin catch_errors extensions core

[filter:proxy]
paste.filter_factory = oslo_middleware.http_proxy_to_wsgi:HTTPProxyToWSGI.factory

[filter:request_id]
paste.filter_factory = oslo_middleware:RequestId.factory

[filter:everybody_is_admin]
paste.filter_factory = neutron.auth:NoauthFakeProjectId.factory

[filter:catch_errors]
paste.filter_factory = oslo_middleware:CatchErrors.factory

[filter:extensions]
paste.filter_factory = neutron.api.extensions:plugin_aware_extension_middleware_factory

[app:core]
paste.app_factory = neutron.api.v2.router:APIRouter.factory

[app:version_list]
paste.app_factory = neutron.pecan_wsgi.app:versions_factory
"""

# lazy-apps: each worker loads Neutron after the fork, so that no connection is shared.
# need-app: a server that could not load Neutron ends instead of answering 500 for ever.
# Connection: close: uwsgi's own HTTP socket does not keep connections alive.
_UWSGI = """\
[uwsgi]
http-socket = {address}:{port}
module = neutron.wsgi.api:application
master = true
processes = {workers}
threads = {threads}
enable-threads = true
lazy-apps = true
need-app = true
thunder-lock = true
die-on-term = true
no-threads-wait = true
worker-reload-mercy = 5
buffer-size = 65535
add-header = Connection: close
logto = {log}
"""


def main(text: str) -> None:
    """The command: arguments in, deployment out, both as JSON."""
    wanted: dict[str, Any] = json.loads(text)
    for name in ("directory", "control"):
        if name in wanted:
            wanted[name] = Path(wanted[name])
    print(json.dumps(asdict(write_config(**wanted)), default=str))


if __name__ == "__main__":
    main(sys.argv[1])
