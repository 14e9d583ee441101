"""`genpolicy data render`: images of the recorded states of a robomimic file."""

from __future__ import annotations

from collections.abc import Sequence

from genpolicy.cli.arguments import file_of, read_options, setting_of

__all__ = ["render"]

_KNOWN = {"path", "image_size", "cameras", "n_demos", "filter_key", "next_obs", "workers"}


def render(argv: Sequence[str]) -> int:
    """Write a copy of a file with images, and print where it is."""
    from genpolicy.generators.render import render_demos

    source = file_of(argv, "render")
    options, _ = read_options(argv[1:], known=_KNOWN, flags=())
    target = options.get("path", source.with_name(f"{source.stem}_image.hdf5"))
    cameras = options.get("cameras")
    path = render_demos(
        source,
        target,
        cameras=None
        if cameras is None
        else str(setting_of("cameras", cameras, like="")).split(","),
        image_size=_count(options, "image_size"),
        n_demos=_count(options, "n_demos"),
        filter_key=None if options.get("filter_key") is None else str(options["filter_key"]),
        next_obs=bool(options.get("next_obs", False)),
        n_workers=_count(options, "workers") or 1,
    )
    print(f"written: {path}")
    return 0


def _count(options: dict[str, object], name: str) -> int | None:
    value = options.get(name)
    return None if value is None else int(setting_of(name, value, like=1))
