"""The migrations, in their order: each is a module whose name begins with its number."""

import pkgutil


def migrations_of_this_release() -> set[str]:
    return {module.name for module in pkgutil.iter_modules(__path__)}
