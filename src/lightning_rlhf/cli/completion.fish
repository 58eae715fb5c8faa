# Completes lightning-rlhf in fish: lightning-rlhf -sc install=fish | source
function __lightning_rlhf
    set -lx COMP_LINE (commandline -cp)
    set -l program (commandline -cpo)[1]
    $program -sc query=fish 2>/dev/null
end
complete -c lightning-rlhf -f -a '(__lightning_rlhf)'
# What follows = may be the name of a file.
complete -c lightning-rlhf -n 'string match -q "*=*" -- (commandline -ct)' -F
