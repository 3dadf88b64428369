"""Pages of the documentation that are made from the code: `hrpose backbones`, `hrpose settings`."""

import typer


def list_backbones() -> None:
    """Print every backbone with its cost as a Markdown table (docs/backbones.md)."""
    typer.echo(backbones_page(), nl=False)


def backbones_page() -> str:
    """The page docs/backbones.md: every backbone, its paper, cost, strides and public weights."""
    from models.backbone import facts
    from models.backbone import list_backbones as names

    rows = []
    for name in names():
        known = facts(name)
        size = "x".join(map(str, known.input_size))
        strides = ", ".join(map(str, known.strides))
        weights = f"{known.weights_origin}, {known.weights_licence}"
        rows.append(
            f"| `{name}` | {known.parameters / 1e6:.2f} M | {known.multiply_adds / 1e9:.3f} G "
            f"| {size} | {strides} | {known.paper} | {weights} |"
        )
    return "\n".join(
        [
            "# Backbones",
            "",
            "Cost of each backbone without a head, all strides built, for one image of the size "
            "given; multiply-adds / 10^9. A test measures every row again. Made by `make docs`.",
            "",
            "| name | parameters | multiply-adds | input | strides | paper | public weights |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


def list_settings() -> None:
    """Print the server's settings as a Markdown table (docs/configuration.md)."""
    typer.echo(configuration_page(), nl=False)


def configuration_page() -> str:
    """The page docs/configuration.md: every setting, its flag, variable, default and meaning."""
    from service.settings import Settings

    rows = [
        f"| `--{name.replace('_', '-')}` | `HRPOSE_{name.upper()}` | `{field.default}` "
        f"| {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(
        [
            "# Configuration",
            "",
            "Every setting of `hrpose serve`; a flag wins over its variable. Made by `make docs`.",
            "",
            "| flag | variable | default | meaning |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )
