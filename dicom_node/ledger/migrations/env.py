"""What Alembic runs: the connection comes from `dicom_node.ledger.store`, never from a file."""

from alembic import context

from dicom_node.ledger.tables import Base

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
