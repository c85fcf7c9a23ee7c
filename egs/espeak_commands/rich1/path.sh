# Where the recipe's tools are. Sourced by run.sh.
. ../../common.sh
. ../../rich.sh
