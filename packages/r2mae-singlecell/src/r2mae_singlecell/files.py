"""The commands on new files as methods of a model in memory."""

from pathlib import Path
from typing import Any

from r2mae_singlecell import options


class FilesMixin:
    """Methods of `R2MAE` that read cells of any file and write results, block by block."""

    def embed_file(self, data: Path | str, out: Path | str, **arguments: Any) -> Path:
        """Write the embedding of the cells of a file, as `r2mae-singlecell embed` does.

        Args:
            data: a file of any format that `prepare` reads, prepared or not.
            out: the h5ad file to write.
            **arguments: options of the command: `counts`, `batch`, `batch_column`, `duplicates`, `min_genes_found`, …

        Raises:
            UserError: what the command refuses.
        """
        from r2mae_singlecell.embedding import embed

        return embed(self._config(options.Embed, data, out, arguments), self)

    def impute_file(self, data: Path | str, out: Path | str, **arguments: Any) -> Path:
        """Write the imputed expression of the cells of a file, as `r2mae-singlecell impute` does; see `embed_file`."""
        from r2mae_singlecell.impute import impute

        return impute(self._config(options.Impute, data, out, arguments), self)

    def surprise_file(self, data: Path | str, out: Path | str, **arguments: Any) -> Path:
        """Write how unlikely the counts of a file are, as `r2mae-singlecell surprise` does; see `embed_file`."""
        from r2mae_singlecell.surprise import surprise

        return surprise(self._config(options.Surprise, data, out, arguments), self)

    def _config(self, kind: type[Any], data: Path | str, out: Path | str, arguments: dict[str, Any]) -> Any:
        return kind(run=Path(), data=Path(data), **{"out": Path(out), "progress": False, **arguments})
