"""Neutron's own test cases with another mechanism driver in them, and with the audit after each."""

from __future__ import annotations

import importlib
import unittest
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, ClassVar
from unittest import mock

from neutron.conf.plugins.ml2.drivers import driver_type
from neutron.plugins.ml2 import plugin as ml2_plugin
from oslo_config import cfg

from flowloom.consistency.table import Ref
from flowloom.neutron import capture, config, driver, models  # noqa: F401  (our tables are made with Neutron's)
from neutron import manager
from own.audit import Audit
from own.suites import BARE_CORE_PLUGINS, SUITES, UNIT, Suite

NO_OP = "logger"
"""Neutron's own driver that does nothing but log; it stands beside ours too, so that both lists are as long."""

DRAINED_AT_END = {
    "test_ha_interface_concurrent_create_on_delete": (
        "a commit in the midst of another session's transaction commits that one's changes too, because Neutron's tests"
        " have one SQLite connection; a drain would then acknowledge half a transaction"
    ),
    "test_update_timpestamp": "it counts every look at the clock, and a database context looks at it",
}
"""Tests in which nothing is drained before the end: why."""

VNI_RANGES = ["1:200"]


class NamedBulkStatement(capture.BulkStatement):
    """Remembers what it was raised for: Neutron turns it into an answer that does not say."""

    raised: ClassVar[list[str]] = []

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.raised.append(text)


@dataclass
class Swap:
    """Which mechanism drivers Neutron's tests get.

    ours: with our driver, or with the no-op alone.
    suite, keeps_drivers: of the current test; see `Suite.beside`.
    drivers: ours, as the current test has made them.  audit: its audit.
    """

    ours: bool
    suite: Suite = SUITES[0]
    keeps_drivers: bool = False
    drivers: list[Any] = field(default_factory=list)
    audit: Audit = field(default_factory=lambda: Audit(at_once=True))

    def install(self) -> None:
        """From now on, in this process.  It lasts: Neutron's tests would undo a mock."""
        _wrap(ml2_plugin.Ml2Plugin, "__init__", self._configure)
        _wrap(manager.NeutronManager, "_get_plugin_instance", self._core_plugin)
        driver.DrainWorker = lambda *_arguments: self  # A thread of its own would write into the next test.
        capture.BulkStatement = NamedBulkStatement
        # What the driver does not announce cannot be asked for, hence not be tested; its own tests hold that choice.
        # `announce_unwired` lifts most of it, this the rest.
        assert driver.UNSUPPORTED_EXTENSIONS
        driver.UNSUPPORTED_EXTENSIONS = frozenset()
        swap = self
        original = driver.FlowloomDriver.initialize

        def initialize(this: Any) -> None:
            swap.drivers.append(this)
            original(this)

        driver.FlowloomDriver.initialize = initialize

    def _configure(self, original: Callable[..., Any], plugin: Any) -> Any:
        wanted = list(cfg.CONF.ml2.mechanism_drivers) if self.keeps_drivers else [NO_OP]
        self._set("mechanism_drivers", [*wanted, "flowloom"] if self.ours else wanted, "ml2")
        if not self.keeps_drivers and cfg.CONF.ml2.project_network_types == ["local"]:
            self._set("project_network_types", ["geneve"], "ml2")
        driver_type.register_ml2_drivers_geneve_opts()
        if not cfg.CONF.ml2_type_geneve.vni_ranges:
            self._set("vni_ranges", VNI_RANGES, "ml2_type_geneve")
        config.register()
        self._set("store", "sqlite:////nonexistent/northbound.sqlite", "flowloom")
        self._set("strict_capture", True, "flowloom")
        self._set("announce_unwired", True, "flowloom")
        return original(plugin)

    def _core_plugin(self, original: Callable[..., Any], this: Any, namespace: str, provider: str) -> Any:
        if namespace == manager.CORE_PLUGINS_NAMESPACE and any(fnmatchcase(provider, p) for p in BARE_CORE_PLUGINS):
            found = manager.NeutronManager.load_class_for_provider(namespace, provider)
            if not issubclass(found, ml2_plugin.Ml2Plugin):
                provider = "ml2"
                if self.suite.extension_drivers:
                    self._set("extension_drivers", list(self.suite.extension_drivers), "ml2")
        return original(this, namespace, provider)

    @staticmethod
    def _set(name: str, value: object, group: str) -> None:
        cfg.CONF.set_override(name, value, group)

    def case(self, suite: Suite, original: type[unittest.TestCase]) -> type[unittest.TestCase]:
        """The test case with the swap in force and the audit behind it."""
        swap = self

        class Swapped(original):  # type: ignore[valid-type,misc]
            def setUp(self) -> None:
                swap.suite, swap.keeps_drivers = suite, suite.keeps_drivers(original.__name__)
                swap.drivers.clear()
                swap.audit = Audit(at_once=self._testMethodName not in DRAINED_AT_END)
                NamedBulkStatement.raised.clear()
                super().setUp()
                if swap.ours:
                    self.addCleanup(swap.check, self)

        Swapped.__name__ = original.__name__
        Swapped.__qualname__ = original.__qualname__
        Swapped.__module__ = original.__module__
        return Swapped

    def wake(self, refs: frozenset[Ref]) -> None:
        """As the drain worker of the current test."""
        self.audit.wake(refs)

    def check(self, test: Any) -> None:
        """After the test's own clean-up, before its database is emptied."""
        mock.patch.stopall()
        if self.drivers:  # Without an ML2 plug-in there was nobody to capture anything.
            test.audited = self.audit.check(self.drivers, NamedBulkStatement.raised)


def _wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    original = getattr(owner, name)

    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        return around(original, *arguments, **keywords)

    setattr(owner, name, wrapped)


def classes(suite: Suite) -> Iterator[type[unittest.TestCase]]:
    """The test case classes of a suite, in the order of the module."""
    module = importlib.import_module(UNIT + suite.module)
    for name, found in vars(module).items():
        is_case = isinstance(found, type) and issubclass(found, unittest.TestCase)
        if is_case and found.__module__ == module.__name__ and suite.includes(name):
            yield found


def test_ids() -> list[str]:
    """Every test, as `module.class.method`."""
    names = unittest.defaultTestLoader.getTestCaseNames
    return [
        f"{suite.module}.{each.__name__}.{name}" for suite in SUITES for each in classes(suite) for name in names(each)
    ]
