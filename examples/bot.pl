#!/usr/bin/perl
# The same bot in Perl, with three of its faults: perl bot.pl PORT
use strict;
use warnings;
use IO::Socket::INET;

$| = 1;
$SIG{TERM} = sub { exit 0 };
my $name  = $ENV{PADDOCK_AGENT} // "bot";
my $fault = "none";
my $server = IO::Socket::INET->new(
    LocalAddr => "127.0.0.1", LocalPort => $ARGV[0], Listen => 64, ReuseAddr => 1,
) or die "cannot listen on $ARGV[0]: $!\n";
print "$name listens on $ARGV[0]\n";

while (1) {
    my $client = $server->accept or next;    # a signal came
    my $request = <$client> // "";
    while (my $line = <$client>) { last if $line =~ /^\r?$/ }
    $fault = $1 if $request =~ m{^POST /fault/(\w+)};
    my $body = $fault eq "garbage" ? "It works!" : qq({"status": "ok", "bot": "$name", "fault": "$fault"});
    print $client "HTTP/1.1 200 OK\r\nContent-Length: " . length($body) . "\r\nConnection: close\r\n\r\n$body";
    close $client;
    exit 3 if $fault eq "die";
    sleep 86400 while $fault eq "hang";
}
